//go:build !wasip1

package tidemill

import (
	"fmt"
	"os"

	"tidemill.dev/sdk/internal/bridge"
)

// Outside of the broker lines go to standard error, or to the test that runs.

func init() {
	bridge.New = func(function any, topics []string) func([]byte) []byte {
		i := &instance{function: function.(Function), output: newOutput(topics)}
		return i.process
	}
}

func writeLog(level int, line string) {
	if bridge.Log(level, line) {
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", [...]string{"debug", "info", "warn", "error"}[level], line)
}
