// TestSpeed is copied beside a transform by `cargo xtask bench T5`, which makes the project part of the SDK's module path, so that the
// instance of tests is within reach: records a second of maskEmail compiled natively, on one thread, of a call that standard input has.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	tidemill "tidemill.dev/sdk"
	"tidemill.dev/sdk/internal/bridge"
)

const (
	rounds       = 9
	roundSeconds = 0.5
	// answerBytes stand before the sections of an answer, and sectionBytes before the records of each, of which the last four are their
	// length (wit/core-module.md).
	answerBytes  = 12
	sectionBytes = 32
	// batchBytes stand before the records of a batch, and crcBytes of them are not in its checksum.
	batchBytes = 61
	crcBytes   = 21
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batches makes a record batch of each of an answer's sections, as a broker does, in the room of those before.
func batches(room, answer []byte) []byte {
	room = room[:0]
	for at := answerBytes; at < len(answer); {
		begin := len(room)
		at += sectionBytes
		end := at + int(binary.LittleEndian.Uint32(answer[at-4:]))
		room = append(room, make([]byte, batchBytes)...)
		room = append(room, answer[at:end]...)
		batch := room[begin:]
		binary.BigEndian.PutUint32(batch[crcBytes-4:], crc32.Checksum(batch[crcBytes:], castagnoli))
		at = end
	}
	return room
}

func TestSpeed(t *testing.T) {
	call, err := io.ReadAll(os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	records := int(binary.LittleEndian.Uint32(call[12+16:]))
	process := bridge.New(tidemill.Function(maskEmail), []string{"out"})
	answer := process(call)
	if binary.LittleEndian.Uint32(answer) != 0 || binary.LittleEndian.Uint32(answer[8:]) != 0 {
		t.Fatalf("it failed: %q", answer[:min(200, len(answer))])
	}
	var room []byte
	rates := make([]float64, rounds)
	for round := range rates {
		began, calls := time.Now(), 0
		for time.Since(began).Seconds() < roundSeconds {
			room = batches(room, process(call))
			calls++
		}
		rates[round] = float64(calls*records) / time.Since(began).Seconds()
	}
	slices.Sort(rates)
	line, err := json.Marshal(map[string]any{
		"go": runtime.Version(), "bytes": len(room), "records_per_s": int(rates[rounds/2]),
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", line)
}
