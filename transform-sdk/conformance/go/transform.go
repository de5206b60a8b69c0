// The functions of the conformance suite in Go, as ../README.md describes them.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	tidemill "tidemill.dev/sdk"
)

func init() { tidemill.Register(conformance) }

var functions = map[string]tidemill.Function{
	"forward":     forward,
	"edit":        edit,
	"strip":       strip,
	"new":         newRecord,
	"filter":      filter,
	"repeat":      repeat,
	"large":       large,
	"fan-out":     fanOut,
	"route":       route,
	"fail":        fail,
	"environment": environment,
	"log":         log,
	"time":        setTime,
	"place":       place,
	"where":       where,
	"panic":       panics,
}

func conformance(record tidemill.Record, output *tidemill.Output) error {
	name := os.Getenv("CONFORMANCE_FUNCTION")
	function, ok := functions[name]
	if !ok {
		return fmt.Errorf("there is no function %q", name)
	}
	return function(record, output)
}

func forward(record tidemill.Record, output *tidemill.Output) error {
	return output.Forward(record)
}

func edit(record tidemill.Record, output *tidemill.Output) error {
	edited := record.Edit().SetValueParts([]byte("<"), record.Value(), []byte(">"))
	return output.Write(edited.AddHeader("edited", []byte("yes")).AddHeader("edited", nil))
}

func strip(record tidemill.Record, output *tidemill.Output) error {
	return output.Write(record.Edit().SetKey(nil).SetValue(nil).RemoveHeaders())
}

func newRecord(record tidemill.Record, output *tidemill.Output) error {
	return output.Write(tidemill.New().SetValue(record.Value()).AddHeader("made", []byte("yes")))
}

func filter(record tidemill.Record, output *tidemill.Output) error {
	if !bytes.HasPrefix(record.Value(), []byte("keep")) {
		return nil
	}
	return output.Write(record.Edit())
}

func repeat(record tidemill.Record, output *tidemill.Output) error {
	count, err := strconv.Atoi(string(record.Value()))
	if err != nil {
		return fmt.Errorf("not a number: %s", record.Value())
	}
	for i := range count {
		if err := output.Write(record.Edit().SetValue(strconv.AppendInt(nil, int64(i), 10))); err != nil {
			return err
		}
	}
	return nil
}

func large(record tidemill.Record, output *tidemill.Output) error {
	var count, size int
	if _, err := fmt.Sscanf(string(record.Value()), "%d %d", &count, &size); err != nil {
		return err
	}
	value := bytes.Repeat([]byte("x"), size)
	for range count {
		if err := output.Write(record.Edit().SetValue(value)); err != nil {
			return err
		}
	}
	return nil
}

func fanOut(record tidemill.Record, output *tidemill.Output) error {
	if err := output.Write(record.Edit()); err != nil {
		return err
	}
	if err := output.To("second").Write(record.Edit().SetValueParts([]byte("2:"), record.Value())); err != nil {
		return err
	}
	return output.To("third").Write(record.Edit().SetValueParts([]byte("3:"), record.Value()))
}

func route(record tidemill.Record, output *tidemill.Output) error {
	to, ok := record.Header("to")
	if !ok {
		return output.Write(record.Edit())
	}
	return output.To(string(to)).Write(record.Edit())
}

func fail(record tidemill.Record, output *tidemill.Output) error {
	if err := output.Write(record.Edit()); err != nil {
		return err
	}
	if err := output.To("second").Write(record.Edit()); err != nil {
		return err
	}
	if bytes.HasPrefix(record.Value(), []byte("bad")) {
		return fmt.Errorf("refused: %s", record.Value())
	}
	return nil
}

func environment(record tidemill.Record, output *tidemill.Output) error {
	for _, name := range strings.Split(string(record.Value()), ",") {
		text := name + " is not set"
		if value, ok := os.LookupEnv(name); ok {
			text = name + "=" + value
		}
		if err := output.Write(tidemill.New().SetValue([]byte(text))); err != nil {
			return err
		}
	}
	return nil
}

func log(record tidemill.Record, output *tidemill.Output) error {
	where, text, _ := strings.Cut(string(record.Value()), " ")
	switch where {
	case "debug":
		tidemill.Debugf("%s", text)
	case "info":
		tidemill.Infof("%s", text)
	case "warn":
		tidemill.Warnf("%s", text)
	case "error":
		tidemill.Errorf("%s", text)
	case "stdout":
		fmt.Println(text)
	case "stderr":
		fmt.Fprintln(os.Stderr, text)
	default:
		return fmt.Errorf("there is nothing called %q to log to", where)
	}
	return output.Write(record.Edit())
}

func setTime(record tidemill.Record, output *tidemill.Output) error {
	timestamp, err := strconv.ParseInt(string(record.Value()), 10, 64)
	if err != nil {
		return err
	}
	return output.Write(record.Edit().SetTimestamp(timestamp))
}

func place(record tidemill.Record, output *tidemill.Output) error {
	edited := record.Edit()
	if key, ok := record.Header("key"); ok {
		edited.SetKey(key)
	}
	if where, ok := record.Header("place"); ok && string(where) == "by-key" {
		edited.ByKey()
	} else if ok {
		partition, err := strconv.ParseInt(string(where), 10, 32)
		if err != nil {
			return err
		}
		edited.ToPartition(int32(partition))
	}
	return output.Write(edited)
}

func where(record tidemill.Record, output *tidemill.Output) error {
	text := fmt.Sprintf("partition=%d offset=%d timestamp=%d", record.Partition(), record.Offset(), record.Timestamp())
	return output.Write(tidemill.New().SetValue([]byte(text)))
}

func panics(record tidemill.Record, output *tidemill.Output) error {
	if string(record.Value()) == "panic" {
		panic("asked to")
	}
	return output.Write(record.Edit())
}

func main() {}
