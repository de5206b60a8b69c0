package tidemill

import (
	"bytes"
	"unsafe"
)

// NewRecord is a record to be written, made by [Record.Edit] (keeps key, value, headers and timestamp) or [New] (nothing; its
// timestamp is the input record's). Its methods change it and give it back, so that they can be chained:
//
//	output.Write(record.Edit().SetValue(masked).AddHeader("masked", []byte("yes")))
//
// It goes to the partition with the input partition's number, or, where its key is not the input record's, to the one that Kafka's
// clients choose for that key; [NewRecord.ByKey] and [NewRecord.ToPartition] say otherwise. What it is given is copied by Write, and
// must not be changed before.
type NewRecord struct {
	// kept are the headers of the record that it was made from, encoded.
	kept      []byte
	keptCount int
	key       []byte
	value     []byte
	// The value's parts, if it has any, and the headers added: the first few in place, so that they take no memory from the heap.
	fewParts  [partsInPlace][]byte
	parts     int
	partsLen  int
	moreParts [][]byte
	fewAdded  [addedInPlace]Header
	added     int
	moreAdded []Header
	timestamp int64
	timed     bool
	placed    placed
	partition int32
}

const (
	partsInPlace = 5
	addedInPlace = 2
)

// placed says what was asked for with ByKey or ToPartition.
type placed uint8

const (
	placedByDefault placed = iota
	placedByKey
	placedInPartition
)

// New makes a record without key, value or headers. Its timestamp is that of the input record it is written for.
func New() *NewRecord { return &NewRecord{} }

// SetKey sets the key; nil takes it away.
func (n *NewRecord) SetKey(key []byte) *NewRecord {
	n.key = key
	return n
}

// SetValue sets the value; nil takes it away, which makes a tombstone.
func (n *NewRecord) SetValue(value []byte) *NewRecord {
	n.value, n.parts = value, 0
	return n
}

// SetValueParts sets the value to parts, one after the other, without a buffer to put them together in. Without any part the value
// is empty.
func (n *NewRecord) SetValueParts(parts ...[]byte) *NewRecord {
	n.value, n.parts, n.moreParts, n.partsLen = []byte{}, len(parts), nil, 0
	for i, part := range parts {
		n.partsLen += len(part)
		if i < partsInPlace {
			n.fewParts[i] = part
		} else {
			n.moreParts = append(n.moreParts, part)
		}
	}
	return n
}

// AddHeader adds a header after the others. Headers of the same key stay beside it. A nil value makes a header without one.
func (n *NewRecord) AddHeader(key string, value []byte) *NewRecord {
	header := Header{Key: key, Value: value}
	if n.added < addedInPlace {
		n.fewAdded[n.added] = header
	} else {
		n.moreAdded = append(n.moreAdded, header)
	}
	n.added++
	return n
}

// RemoveHeaders takes all headers away.
func (n *NewRecord) RemoveHeaders() *NewRecord {
	n.kept, n.keptCount, n.added, n.moreAdded = nil, 0, 0, nil
	return n
}

// SetTimestamp sets the timestamp, in ms since the Unix epoch.
func (n *NewRecord) SetTimestamp(ms int64) *NewRecord {
	n.timestamp, n.timed = ms, true
	return n
}

// ByKey sends the record to the partition that Kafka's clients choose for its key, changed or not. Without a key it goes where its
// input would.
func (n *NewRecord) ByKey() *NewRecord {
	n.placed = placedByKey
	return n
}

// ToPartition sends the record to this partition of the output topic. It fails where there is no such partition.
func (n *NewRecord) ToPartition(partition int32) *NewRecord {
	n.placed, n.partition = placedInPartition, partition
	return n
}

// part gives a part of the value.
func (n *NewRecord) part(i int) []byte {
	if i < partsInPlace {
		return n.fewParts[i]
	}
	return n.moreParts[i-partsInPlace]
}

// addedHeader gives a header that was added.
func (n *NewRecord) addedHeader(i int) *Header {
	if i < addedInPlace {
		return &n.fewAdded[i]
	}
	return &n.moreAdded[i-addedInPlace]
}

// isPlacedByInput says, at a glance, that the record has the input's very key, or none on either side, and that nothing was asked for.
func (n *NewRecord) isPlacedByInput(in *inputRecord) bool {
	return n.placed == placedByDefault && len(n.key) == len(in.key) && unsafe.SliceData(n.key) == unsafe.SliceData(in.key)
}

// placement is the record's in the answer, for one made from the input record in.
func (n *NewRecord) placement(in *inputRecord) (int32, error) {
	switch n.placed {
	case placedByKey:
		return placeByKey, nil
	case placedInPartition:
		if n.partition < 0 {
			return 0, noPartition(n.partition)
		}
		return n.partition, nil
	}
	if (n.key == nil) == (in.key == nil) && bytes.Equal(n.key, in.key) {
		return placeByInput, nil
	}
	return placeByKey, nil
}
