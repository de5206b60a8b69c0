package tidemill

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// testCall makes a call of batches of which each has n records with a key, a value and headers, and that has offsets with gaps.
func testCall(batches, n int) []byte {
	le := binary.LittleEndian
	call := le.AppendUint32(nil, contract)
	call = le.AppendUint32(call, 3)
	call = le.AppendUint32(call, uint32(batches))
	for b := range batches {
		section := &section{buf: make([]byte, frontBytes)}
		for i := range n {
			record := New().SetKey([]byte("key")).SetValue([]byte("value")).AddHeader("a", []byte("b")).AddHeader("a", nil)
			l := record.lay(int64(i), int64(2*i))
			section.put(record, &l)
		}
		records := section.buf[frontBytes:]
		call = le.AppendUint64(call, uint64(1000*b))
		call = le.AppendUint64(call, 50)
		call = le.AppendUint32(call, uint32(n))
		call = le.AppendUint32(call, uint32(len(records)))
		call = append(call, records...)
	}
	return call
}

func forwardAll(record Record, output *Output) error { return output.Forward(record) }

func TestRecordsOfSeveralBatchesAreSeenWithTheirOffsets(t *testing.T) {
	type seen struct {
		offset, timestamp int64
		partition         int32
	}
	var got []seen
	i := &instance{output: newOutput([]string{"out"}), function: func(record Record, _ *Output) error {
		got = append(got, seen{record.Offset(), record.Timestamp(), record.Partition()})
		return nil
	}}
	answer := i.process(testCall(2, 2))
	if want := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}; !bytes.Equal(answer, want) {
		t.Errorf("the answer to nothing written is %x", answer)
	}
	want := []seen{{0, 50, 3}, {2, 51, 3}, {1000, 50, 3}, {1002, 51, 3}}
	for n := range want {
		if got[n] != want[n] {
			t.Errorf("record %d is %v, not %v", n, got[n], want[n])
		}
	}
}

func TestMalformedCallIsAnErrorOfTheCall(t *testing.T) {
	whole := testCall(2, 3)
	i := &instance{output: newOutput([]string{"out"}), function: forwardAll}
	check := func(call []byte, what string) {
		t.Helper()
		if answer := i.process(call); answer[0] != answerFailed || len(answer) < 10 {
			t.Errorf("%s: the answer is %q", what, answer)
		}
	}
	for end := range whole {
		check(whole[:end:end], "cut")
	}
	check(append(bytes.Clone(whole), 0), "too long")
	for at := range 4 {
		other := bytes.Clone(whole)
		other[at]++
		check(other, "another version")
	}
	for _, at := range []int{8, callHeaderBytes + 16, callHeaderBytes + 20, callHeaderBytes + 24} {
		other := bytes.Clone(whole)
		other[at+3] = 0xff
		other[at] = 0xff
		check(other, "a number that claims too much")
	}
	if answer := i.process(whole); answer[0] != answerOutcome || answer[4] != 1 {
		t.Errorf("the call after those is answered with %q", answer)
	}
}

func TestNoInputMakesItPanic(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	i := &instance{output: newOutput([]string{"out"}), function: func(record Record, output *Output) error {
		for h := range record.Headers() {
			_ = len(h.Key) + len(h.Value)
		}
		record.Header("a")
		if random.IntN(8) == 0 {
			return errors.New("no")
		}
		return output.Write(record.Edit().AddHeader("b", record.Value()))
	}}
	whole := testCall(3, 4)
	for range 50_000 {
		call := bytes.Clone(whole)
		for range 1 + random.IntN(4) {
			call[callHeaderBytes+random.IntN(len(call)-callHeaderBytes)] = byte(random.Uint32())
		}
		i.process(call[:len(call)-random.IntN(2)*random.IntN(len(call))])
	}
}

func TestRecordCostsNoAllocation(t *testing.T) {
	call := testCall(1, 1000)
	value := []byte("another value")
	for name, function := range map[string]Function{
		"forward": forwardAll,
		"edit": func(record Record, output *Output) error {
			edit := record.Edit().SetValueParts(value, value, value).AddHeader("x", value).SetTimestamp(5)
			return output.To("out").Write(edit.SetKey(value).ByKey())
		},
	} {
		i := &instance{output: newOutput([]string{"first", "out"}), function: function}
		i.process(call)
		if n := testing.AllocsPerRun(10, func() { i.process(call) }); n > 5 {
			t.Errorf("%s: a call of 1000 records made %v allocations", name, n)
		}
	}
}

func TestMessageIsCutBetweenCharacters(t *testing.T) {
	for _, message := range []string{strings.Repeat("ä", 600), "x" + strings.Repeat("ä", 600), strings.Repeat("x\xff", 1000)} {
		got := cut(message)
		if len(got) > messageBytesMax+3 || len(got) < messageBytesMax-3 || !strings.HasSuffix(got, "...") || got != strings.ToValidUTF8(got, "?") {
			t.Errorf("%q", got)
		}
	}
	if whole := strings.Repeat("x", messageBytesMax); cut(whole) != whole {
		t.Error("a message that fits was cut")
	}
}

func TestMessageOfAFailedCallSaysWhatIsMissing(t *testing.T) {
	defer func() { registered = nil }()
	for _, step := range []struct {
		function Function
		outputs  string
		want     string
	}{
		{nil, "a", "Register"},
		{forwardAll, "", "TIDEMILL_OUTPUTS"},
		{forwardAll, ",", "TIDEMILL_OUTPUTS"},
	} {
		registered = step.function
		t.Setenv("TIDEMILL_OUTPUTS", step.outputs)
		if _, err := newInstance(); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("%v", err)
		}
	}
	t.Setenv("TIDEMILL_OUTPUTS", "a,b")
	made, err := newInstance()
	if err != nil || strings.Join(made.output.Topics(), " ") != "a b" {
		t.Errorf("%v", err)
	}
}

func TestRegisteringTwoFunctionsPanics(t *testing.T) {
	defer func() { registered = nil }()
	Register(forwardAll)
	defer func() {
		if recover() == nil {
			t.Error("it did not")
		}
	}()
	Register(forwardAll)
}
