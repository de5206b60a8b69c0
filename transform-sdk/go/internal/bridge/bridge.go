// Package bridge lets package tidetest into package tidemill without anything of it being public.
package bridge

import "sync"

// New makes an instance of a tidemill.Function with these outputs: from a call to its answer.
var New func(function any, topics []string) func(call []byte) []byte

var (
	mutex sync.Mutex
	sink  func(level int, line string)
)

// Capture hands the lines that are logged from now on to to; nil stops that.
func Capture(to func(level int, line string)) {
	mutex.Lock()
	defer mutex.Unlock()
	sink = to
}

// Log hands on a line, if somebody captures them.
func Log(level int, line string) bool {
	mutex.Lock()
	defer mutex.Unlock()
	if sink == nil {
		return false
	}
	sink(level, line)
	return true
}
