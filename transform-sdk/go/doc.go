// Package tidemill is for writing Tidemill transforms in Go: one function from a record to the records it becomes.
//
//	package main
//
//	import (
//		"bytes"
//
//		tidemill "tidemill.dev/sdk"
//	)
//
//	func init() { tidemill.Register(shout) }
//
//	// shout hands on what has a value, in capitals.
//	func shout(record tidemill.Record, output *tidemill.Output) error {
//		value := record.Value()
//		if value == nil {
//			return nil
//		}
//		return output.Write(record.Edit().SetValue(bytes.ToUpper(value)))
//	}
//
//	func main() {}
//
// A record is read in place: keys, values and header values are slices of the batch as it lies in the broker's log, good until
// the function returns. Copy what is needed for longer (bytes.Clone).
//
// A nil slice is an absent key or value, an empty one is there and empty: a record without a value is a tombstone. Some functions of
// the standard library give nil for nothing (bytes.TrimSpace, bytes.Buffer.Bytes); where an empty value is meant, say so:
// append([]byte{}, b...).
//
// An error concerns its record only: what was written for it is taken back, the other records of the call are not touched, and the
// transform's on_error policy decides what becomes of it. A panic ends the call; the broker then runs it in pieces until the record
// that is to blame stands alone.
//
// Nothing kept between calls may be relied on: an instance serves many of them and may go away between any two. Settings come from
// the environment (os.Getenv): what was given at deployment, and TIDEMILL_TRANSFORM, TIDEMILL_VERSION, TIDEMILL_INPUT_TOPIC and
// TIDEMILL_OUTPUTS. Records are handed to the function one after the other, never two at a time.
//
// Package tidetest runs a function in ordinary tests, and package tidejson changes strings in JSON without parsing all of it.
package tidemill
