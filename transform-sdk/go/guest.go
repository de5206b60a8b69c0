//go:build wasip1

package tidemill

import (
	"runtime"
	"unsafe"
)

// The module's side of the contract in wit/core-module.md.

const (
	// inputBytesFirst is the least room that is made for a call, and inputBytesKept the most that is kept for the next.
	inputBytesFirst = 64 << 10
	inputBytesKept  = 4 << 20
)

var guest struct {
	instance *instance
	// input is the room reserved last.
	input []byte
	// answer keeps the last answer where it is.
	answer []byte
}

//go:wasmimport tidemill log
//go:noescape
func hostLog(level uint32, address unsafe.Pointer, length uint32)

func writeLog(level int, line string) {
	hostLog(uint32(level), unsafe.Pointer(unsafe.StringData(line)), uint32(len(line)))
	runtime.KeepAlive(line)
}

//go:wasmexport tidemill_contract_1
func contract1() {}

//go:wasmexport tidemill_reserve
func reserve(size uint32) uint32 {
	// The last answer may go.
	guest.answer = nil
	if guest.instance != nil {
		guest.instance.forgetAnswer()
	}
	if size > inputBytesKept {
		// Memory that was taken is never given back: a large call had better use that of the one before it.
		guest.input = nil
		runtime.GC()
		guest.input = make([]byte, size)
	} else if cap(guest.input) < int(size) || cap(guest.input) > inputBytesKept {
		// A quarter more than asked for, so that calls which differ a little find room.
		guest.input = make([]byte, max(inputBytesFirst, min(size+size/4, inputBytesKept)))
	}
	guest.input = guest.input[:max(1, size)]
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(guest.input))))
}

//go:wasmexport tidemill_process
func process(size uint32) uint64 {
	guest.answer = processReserved(size)
	address := uint32(uintptr(unsafe.Pointer(unsafe.SliceData(guest.answer))))
	return uint64(address)<<32 | uint64(len(guest.answer))
}

func processReserved(size uint32) []byte {
	if int(size) > len(guest.input) {
		return failed("more bytes are to be processed than were reserved")
	}
	if guest.instance == nil {
		made, err := newInstance()
		if err != nil {
			return failed(err.Error())
		}
		guest.instance = made
	}
	return guest.instance.process(guest.input[:size:size])
}
