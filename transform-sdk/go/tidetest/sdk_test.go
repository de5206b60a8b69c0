package tidetest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	tidemill "tidemill.dev/sdk"
	"tidemill.dev/sdk/internal/bridge"
)

func value(text string) Record { return Record{Value: []byte(text)} }

func TestRecordsPassUnchanged(t *testing.T) {
	records := []Record{
		{},
		{Key: []byte{}, Value: []byte{}, Timestamp: -1},
		{Key: []byte("k"), Value: []byte(strings.Repeat("v", 3000)), Timestamp: math.MaxInt64},
		{Value: []byte("v"), Timestamp: math.MinInt64, Headers: []tidemill.Header{
			{Key: "a", Value: []byte("1")}, {Key: "a"}, {Key: "", Value: []byte{}}, {Key: "\xff", Value: []byte{0, 255}},
		}},
	}
	for _, function := range []tidemill.Function{
		func(record tidemill.Record, output *tidemill.Output) error { return output.Forward(record) },
		func(record tidemill.Record, output *tidemill.Output) error {
			made := tidemill.New().SetKey(record.Key()).SetValue(record.Value()).SetTimestamp(record.Timestamp())
			for h := range record.Headers() {
				made.AddHeader(h.Key, h.Value)
			}
			return output.Write(made)
		},
	} {
		if got := Run(t, function, records...).Records(); !reflect.DeepEqual(got, records) {
			t.Errorf("got %v", got)
		}
	}
}

func TestWhatIsSetAndTakenAway(t *testing.T) {
	record := Record{Key: []byte("k"), Value: []byte("v"), Headers: []tidemill.Header{{Key: "h"}}, Timestamp: 7}
	long := make([][]byte, 20)
	for i := range long {
		long[i] = []byte(strings.Repeat(fmt.Sprint(i%10), i*5))
	}
	whole := []byte{}
	for _, part := range long {
		whole = append(whole, part...)
	}
	abc := []tidemill.Header{{Key: "a", Value: []byte("1")}, {Key: "b"}, {Key: "c", Value: []byte{}}}
	for name, test := range map[string]struct {
		change func(tidemill.Record) *tidemill.NewRecord
		want   Record
	}{
		"nothing":  {func(r tidemill.Record) *tidemill.NewRecord { return tidemill.New() }, Record{Timestamp: 7, Placement: ByKey}},
		"stripped": {func(r tidemill.Record) *tidemill.NewRecord { return r.Edit().SetKey(nil).SetValue(nil).RemoveHeaders() }, Record{Timestamp: 7, Placement: ByKey}},
		"parts":    {func(r tidemill.Record) *tidemill.NewRecord { return r.Edit().SetValueParts(long...).RemoveHeaders() }, Record{Key: []byte("k"), Value: whole, Timestamp: 7}},
		"no parts": {func(r tidemill.Record) *tidemill.NewRecord { return tidemill.New().SetKey([]byte("k")).SetValueParts() }, Record{Key: []byte("k"), Value: []byte{}, Timestamp: 7}},
		"value over parts": {func(r tidemill.Record) *tidemill.NewRecord {
			return r.Edit().SetValueParts(long...).SetValue([]byte("x")).RemoveHeaders()
		}, Record{Key: []byte("k"), Value: []byte("x"), Timestamp: 7}},
		"headers": {func(r tidemill.Record) *tidemill.NewRecord {
			return r.Edit().RemoveHeaders().AddHeader("a", []byte("1")).AddHeader("b", nil).AddHeader("c", []byte{}).SetTimestamp(-3)
		}, Record{Key: []byte("k"), Value: []byte("v"), Headers: abc, Timestamp: -3}},
	} {
		ran := Run(t, func(r tidemill.Record, output *tidemill.Output) error { return output.Write(test.change(r)) }, record)
		if got := ran.Records(); !reflect.DeepEqual(got, []Record{test.want}) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestPlacement(t *testing.T) {
	key := []byte("k")
	for name, test := range map[string]struct {
		key    []byte
		change func(*tidemill.NewRecord)
		want   Placement
	}{
		"kept key":             {key, func(n *tidemill.NewRecord) {}, ByInput},
		"no key":               {nil, func(n *tidemill.NewRecord) {}, ByInput},
		"equal key set":        {key, func(n *tidemill.NewRecord) { n.SetKey([]byte("k")) }, ByInput},
		"changed key":          {key, func(n *tidemill.NewRecord) { n.SetKey([]byte("l")) }, ByKey},
		"empty key for none":   {nil, func(n *tidemill.NewRecord) { n.SetKey([]byte{}) }, ByKey},
		"no key for empty one": {[]byte{}, func(n *tidemill.NewRecord) { n.SetKey(nil) }, ByKey},
		"asked for":            {key, func(n *tidemill.NewRecord) { n.ByKey() }, ByKey},
		"partition":            {key, func(n *tidemill.NewRecord) { n.SetKey(nil).ToPartition(0) }, Partition(0)},
		"largest partition":    {key, func(n *tidemill.NewRecord) { n.ToPartition(math.MaxInt32) }, Partition(math.MaxInt32)},
	} {
		ran := Run(t, func(r tidemill.Record, output *tidemill.Output) error {
			edit := r.Edit()
			test.change(edit)
			return output.Write(edit)
		}, Record{Key: test.key})
		if got := ran.Records(); len(got) != 1 || got[0].Placement != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestErrorThatNobodyLookedAtRefusesTheRecord(t *testing.T) {
	ran := RunWith(t, Options{Outputs: []string{"a", "b"}}, func(r tidemill.Record, output *tidemill.Output) error {
		output.Forward(r)
		switch string(r.Value()) {
		case "unknown":
			output.To("c").Forward(r)
		case "negative":
			output.Write(r.Edit().ToPartition(-1))
		}
		output.To("b").Forward(r)
		return nil
	}, value("unknown"), value("good"), value("negative"))
	if len(ran.Records()) != 1 || len(ran.Topic("b")) != 1 || len(ran.Failures()) != 2 {
		t.Fatalf("%v %v", ran.Records(), ran.Failures())
	}
	unknown, negative := ran.Failures()[0], ran.Failures()[1]
	if unknown.Offset != 0 || !strings.Contains(unknown.Message, `"c" is not an output`) || !strings.Contains(unknown.Message, "a, b") {
		t.Errorf("%v", unknown)
	}
	if negative.Offset != 2 || negative.Message != "there is no partition -1" {
		t.Errorf("%v", negative)
	}
}

func TestLogLinesAreCapturedWithTheirLevels(t *testing.T) {
	ran := Run(t, func(r tidemill.Record, output *tidemill.Output) error {
		tidemill.Debugf("%d", 1)
		tidemill.Infof("two")
		tidemill.Warnf("")
		tidemill.Errorf("%s", r.Value())
		return nil
	}, value("four"))
	want := []Line{{Debug, "1"}, {Info, "two"}, {Warn, ""}, {Error, "four"}}
	if !reflect.DeepEqual(ran.Logs(), want) {
		t.Errorf("got %v", ran.Logs())
	}
}

// write is one of those that a record of the test below asks for.
type write struct {
	topic     int
	placement Placement
	value     []byte
	timestamp int64
}

// lane is where order is kept.
type lane struct {
	topic     int
	placement Placement
}

func randomWrites(random *rand.Rand, topics, partitions int) []write {
	writes := make([]write, random.IntN(4))
	for i := range writes {
		size := random.IntN(40)
		switch random.IntN(60) {
		case 0:
			size = random.IntN(1_000_000)
		case 1:
			size = 20_000
		}
		writes[i] = write{
			topic: random.IntN(topics),
			value: []byte(fmt.Sprint(random.Uint32(), strings.Repeat("v", size))),
			// Some are so far from each other that no difference says so.
			timestamp: []int64{0, 1, 1 << 40, math.MaxInt64, math.MinInt64}[random.IntN(5)],
		}
		if random.IntN(3) > 0 {
			writes[i].placement = Partition(int32(random.IntN(partitions)))
		}
	}
	return writes
}

func compare(t *testing.T, ran *Ran, want map[lane][]Record) {
	t.Helper()
	got := map[lane][]Record{}
	for index, topic := range ran.topics {
		for _, record := range ran.records[topic] {
			in := lane{index, record.Placement}
			got[in] = append(got[in], record)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d placements were used, not %d", len(got), len(want))
	}
	for in := range want {
		if !reflect.DeepEqual(got[in], want[in]) {
			t.Fatalf("%v has %d records, not %d, or others", in, len(got[in]), len(want[in]))
		}
	}
}

// TestWhateverIsWrittenComesOutInOrderAndNothingOfAFailedRecord runs random functions over the calls of one instance, and compares
// what comes out with what a list for each placement would hold.
func TestWhateverIsWrittenComesOutInOrderAndNothingOfAFailedRecord(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	topics := []string{"a", "b", "c"}
	var steps [][]write
	var fails []bool
	next := 0
	instance := bridge.New(tidemill.Function(func(r tidemill.Record, output *tidemill.Output) error {
		writes := steps[next]
		next++
		for _, w := range writes {
			edit := tidemill.New().SetValue(w.value).SetTimestamp(w.timestamp)
			if w.placement != ByInput {
				edit.ToPartition(int32(w.placement.code - 1))
			}
			if err := output.To(topics[w.topic]).Write(edit); err != nil {
				return err
			}
		}
		if fails[next-1] {
			return errors.New("no")
		}
		return nil
	}), topics)
	for range 60 {
		steps, fails, next = nil, nil, 0
		records := make([]Record, 1+random.IntN(200))
		want, failed := map[lane][]Record{}, 0
		partitions := 1 + random.IntN(100)
		for range records {
			writes := randomWrites(random, len(topics), partitions)
			steps, fails = append(steps, writes), append(fails, random.IntN(4) == 0)
			if fails[len(fails)-1] {
				failed++
				continue
			}
			for _, w := range writes {
				in := lane{w.topic, w.placement}
				want[in] = append(want[in], Record{Value: w.value, Timestamp: w.timestamp, Placement: w.placement})
			}
		}
		ran := &Ran{t: t, topics: topics, records: map[string][]Record{}}
		if err := ran.decode(instance(encodeCall(0, records))); err != nil {
			t.Fatal(err)
		}
		compare(t, ran, want)
		if len(ran.Failures()) != failed {
			t.Errorf("%d records failed, not %d", len(ran.Failures()), failed)
		}
	}
}
