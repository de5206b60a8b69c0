// Package tidetest runs a transform in ordinary tests, without WebAssembly and without a broker. The records are handed over and the
// answer is read as the broker does it.
//
//	ran := tidetest.Run(t, maskEmail, tidetest.Record{Value: []byte(`{"email":"ada@example.com"}`)})
//	got := string(ran.Records()[0].Value)
package tidetest

import (
	"fmt"
	"sync"
	"testing"

	tidemill "tidemill.dev/sdk"
	"tidemill.dev/sdk/internal/bridge"
)

// DefaultOutput is the output's name in [Run].
const DefaultOutput = "output"

// Record is a record made by hand, or one that was written. A nil key, value or header value is an absent one.
type Record struct {
	Key     []byte
	Value   []byte
	Headers []tidemill.Header
	// Timestamp in ms since the Unix epoch.
	Timestamp int64
	// Placement says where a record goes that was written. It means nothing for the input.
	Placement Placement
}

// String shows the record for messages of tests.
func (r Record) String() string {
	text := fmt.Sprintf("{key=%s value=%s", shown(r.Key), shown(r.Value))
	for _, h := range r.Headers {
		text += fmt.Sprintf(" %q=%s", h.Key, shown(h.Value))
	}
	return text + fmt.Sprintf(" timestamp=%d %s}", r.Timestamp, r.Placement)
}

func shown(bytes []byte) string {
	if bytes == nil {
		return "absent"
	}
	return fmt.Sprintf("%q", bytes)
}

// Placement says which partition of an output topic a record goes to.
type Placement struct {
	// code is 0 by the input, -1 by the key, else the partition's number and one.
	code int64
}

var (
	// ByInput places a record by the partition of its input, as one that keeps its key is. It is the zero Placement.
	ByInput = Placement{}
	// ByKey places a record as Kafka's clients do, as one is whose key was changed.
	ByKey = Placement{code: -1}
)

// Partition places a record in this partition.
func Partition(partition int32) Placement { return Placement{code: int64(partition) + 1} }

func (p Placement) String() string {
	switch p {
	case ByInput:
		return "by-input"
	case ByKey:
		return "by-key"
	}
	return fmt.Sprintf("partition-%d", p.code-1)
}

// Level says how much a line of log matters.
type Level int

// The levels of tidemill.Debugf, Infof, Warnf and Errorf.
const (
	Debug Level = iota
	Info
	Warn
	Error
)

func (l Level) String() string {
	return [...]string{"debug", "info", "warn", "error"}[l]
}

// Line is a line of log.
type Line struct {
	Level   Level
	Message string
}

// Failure is a record that the function refused.
type Failure struct {
	// Offset is the record's place in the input, from 0.
	Offset int64
	// Message says why.
	Message string
}

// Ran is what a transform did.
type Ran struct {
	t        testing.TB
	topics   []string
	records  map[string][]Record
	failures []Failure
	lines    []Line
}

// Records gives what was written to the default output. Records placed differently are told apart: those with the placement that
// occurred first come first.
func (r *Ran) Records() []Record { return r.records[r.topics[0]] }

// Topic gives what was written to topic; the test ends where there is no such output.
func (r *Ran) Topic(topic string) []Record {
	records, ok := r.records[topic]
	if !ok {
		r.t.Helper()
		r.t.Fatalf("there is no output %q among %q", topic, r.topics)
	}
	return records
}

// Failures gives the records that were refused.
func (r *Ran) Failures() []Failure { return r.failures }

// Logs gives the lines that were logged.
func (r *Ran) Logs() []Line { return r.lines }

// Options say more about a run than [Run] asks for.
type Options struct {
	// Outputs are the declared outputs, the first being the default; without any there is one, called DefaultOutput.
	Outputs []string
	// Partition that the records come from.
	Partition int32
}

// Run runs function on records with one output.
func Run(t testing.TB, function tidemill.Function, records ...Record) *Ran {
	t.Helper()
	return RunWith(t, Options{}, function, records...)
}

// one keeps runs apart: lines of log belong to the one that is on.
var one sync.Mutex

// RunWith runs function on records.
func RunWith(t testing.TB, options Options, function tidemill.Function, records ...Record) *Ran {
	t.Helper()
	topics := options.Outputs
	if len(topics) == 0 {
		topics = []string{DefaultOutput}
	}
	ran := &Ran{t: t, topics: topics, records: map[string][]Record{}}
	for _, topic := range topics {
		ran.records[topic] = nil
	}
	one.Lock()
	defer one.Unlock()
	bridge.Capture(func(level int, line string) {
		ran.lines = append(ran.lines, Line{Level(level), line})
	})
	defer bridge.Capture(nil)
	answer := bridge.New(function, topics)(encodeCall(options.Partition, records))
	if err := ran.decode(answer); err != nil {
		t.Fatalf("the answer cannot be read: %v", err)
	}
	return ran
}
