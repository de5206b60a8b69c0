// Masks the email of JSON records: ada@example.com becomes ***@example.com. Everything else stays as it is, key, headers, timestamp and
// the other members included.
package main

import (
	tidemill "tidemill.dev/sdk"
	"tidemill.dev/sdk/tidejson"
)

func init() { tidemill.Register(maskEmail) }

var stars = []byte("***")

// maskEmail hands every record on, with what identifies a person in its email masked. A value that is no JSON object, or has
// an email that is no text, is refused: it may hold what was to be masked.
func maskEmail(record tidemill.Record, output *tidemill.Output) error {
	value := record.Value()
	if value == nil {
		return output.Forward(record)
	}
	// Arrays of a fixed size cost no memory from the heap; what is more than they hold does.
	var emails [2]tidejson.Span
	found, err := tidejson.AppendStringsStrictly(emails[:0], value, "email")
	if err != nil {
		return err
	}
	var few [5][]byte
	parts, copied := few[:0], 0
	for _, email := range found {
		parts = append(parts, value[copied:email.Start], stars)
		copied = email.End
		if at := tidemill.FindLast(value[email.Start:email.End], '@'); at >= 0 {
			copied = email.Start + at
		}
	}
	parts = append(parts, value[copied:])
	return output.Write(record.Edit().SetValueParts(parts...))
}

func main() {}
