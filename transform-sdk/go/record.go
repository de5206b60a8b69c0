package tidemill

import "iter"

// Record is a record of the input. Its slices are good until the function it was handed to returns, and must not be written to.
type Record struct {
	in *inputRecord
}

// Header is a header of a record. A nil Value is an absent one.
type Header struct {
	// Key is the header's name. Kafka means it to be UTF-8; a client may have sent anything.
	Key string
	// Value is nil where the header has none.
	Value []byte
}

// inputRecord is the record at hand; there is one for each Output.
type inputRecord struct {
	key, value []byte
	// headers are encoded, without their count, and checked.
	headers     []byte
	headerCount int
	timestamp   int64
	offset      int64
	partition   int32
	names       *names
}

// Key gives the key, or nil if there is none. An empty key is not nil.
func (r Record) Key() []byte { return r.in.key }

// Value gives the value, or nil if there is none: a tombstone (in a compacted topic: delete this key). An empty value is not nil.
func (r Record) Value() []byte { return r.in.value }

// Timestamp gives the timestamp, in ms since the Unix epoch.
func (r Record) Timestamp() int64 { return r.in.timestamp }

// Offset gives the record's offset in its partition of the input topic.
func (r Record) Offset() int64 { return r.in.offset }

// Partition gives the partition of the input topic that the record came from.
func (r Record) Partition() int32 { return r.in.partition }

// HeaderCount gives the number of headers.
func (r Record) HeaderCount() int { return r.in.headerCount }

// Headers gives the headers, in order. A key may occur more than once.
func (r Record) Headers() iter.Seq[Header] {
	in := r.in
	headers, count := in.headers, in.headerCount
	return func(yield func(Header) bool) {
		at := 0
		for range count {
			var key, value []byte
			key, value, at = takeHeader(headers, at)
			if !yield(Header{Key: in.names.get(key), Value: value}) {
				return
			}
		}
	}
}

// Header gives the value of the first header called key, and whether there is one. The value is nil where the header has none.
func (r Record) Header(key string) (value []byte, ok bool) {
	at := 0
	for range r.in.headerCount {
		var name []byte
		name, value, at = takeHeader(r.in.headers, at)
		if string(name) == key {
			return value, true
		}
	}
	return nil, false
}

// Edit makes a record like this one (key, value, headers, timestamp), to be changed and written.
func (r Record) Edit() *NewRecord {
	in := r.in
	return &NewRecord{
		kept: in.headers, keptCount: in.headerCount,
		key: in.key, value: in.value, timestamp: in.timestamp, timed: true,
	}
}

// takeHeader reads the header at headers[at:] and gives the place behind it; -1 where it is malformed.
func takeHeader(headers []byte, at int) (key, value []byte, next int) {
	key, at = takeNullable(headers, at)
	if at < 0 || key == nil {
		return nil, nil, -1
	}
	value, at = takeNullable(headers, at)
	return key, value, at
}

// takeNullable reads bytes with their length in front, -1 for none (nil), and gives the place behind them; -1 where they are cut.
func takeNullable(b []byte, at int) ([]byte, int) {
	n, ok := oneByte(b, at)
	if at++; !ok {
		if n, at = takeVarint(b, at-1); at < 0 {
			return nil, -1
		}
	}
	if n < 0 || n > len(b)-at {
		if n == -1 {
			return nil, at
		}
		return nil, -1
	}
	return b[at : at+n : at+n], at + n
}

// names keeps the strings made of header keys, of which most topics have few.
type names struct {
	known map[string]string
}

const (
	// namesMax is how many strings are kept, and nameBytesMax how long one may be.
	namesMax     = 256
	nameBytesMax = 64
)

func (n *names) get(key []byte) string {
	if name, ok := n.known[string(key)]; ok {
		return name
	}
	name := string(key)
	if len(key) <= nameBytesMax && len(n.known) < namesMax {
		if n.known == nil {
			n.known = make(map[string]string)
		}
		n.known[name] = name
	}
	return name
}
