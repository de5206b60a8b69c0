//go:build wasip1

package tidemill

import (
	"runtime"
	"unsafe"
)

// The module's side of the contract in wit/core-module.md.

// inputBytesKept is how much room for a call is kept for the next.
const inputBytesKept = 4 << 20

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
	if cap(guest.input) < int(size) || cap(guest.input) > inputBytesKept {
		guest.input = nil
		// A quarter more than asked for, so that calls which differ a little find room.
		guest.input = make([]byte, max(64<<10, int(size)+int(size)/4))
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
