package tidemill

import "encoding/binary"

const (
	// placeByInput and placeByKey are placements of a section; others are a partition's number.
	placeByInput int32 = -1
	placeByKey   int32 = -2

	// answerHeaderBytes are those before an answer's first section, sectionHeaderBytes those before a section's records, both left
	// free in front of every section, so that the only one of an answer need not be copied.
	answerHeaderBytes  = 12
	sectionHeaderBytes = 32
	frontBytes         = answerHeaderBytes + sectionHeaderBytes

	// few is up to how many bytes a copy is made here: one of a size known only when it runs is a call out of the sandbox, which
	// costs more than they do.
	few = 32
)

// section is a finished or growing record section: records of one output, placed alike.
type section struct {
	topic         int
	placement     int32
	baseTimestamp int64
	maxTimestamp  int64
	recordCount   int
	// buf begins with frontBytes of room.
	buf []byte

	// born is the number of the record that the section was made for.
	born uint64
	// marked is the number of the last record that wrote here, and the rest what the section was before.
	marked  uint64
	markMax int64
	markLen int
	markN   int
}

// mark remembers what the section is before the record of this number writes to it.
func (s *section) mark(record uint64) {
	s.marked = record
	s.markLen, s.markN, s.markMax = len(s.buf), s.recordCount, s.maxTimestamp
}

// layout holds the lengths of a record about to be written.
type layout struct {
	timestampDelta int64
	offsetDelta    int64
	valueLen       int
	headerCount    int
	bodyLen        int
	totalLen       int
}

// lay computes the lengths of n as number offsetDelta of its section.
func (n *NewRecord) lay(timestampDelta, offsetDelta int64) layout {
	l := layout{timestampDelta: timestampDelta, offsetDelta: offsetDelta, valueLen: len(n.value)}
	if n.parts > 0 {
		l.valueLen = n.partsLen
	}
	body := 1 + varlongLen(timestampDelta) + varlongLen(offsetDelta)
	body += varlongLen(int64(len(n.key))) + len(n.key)
	body += varlongLen(int64(l.valueLen)) + l.valueLen
	body += len(n.kept)
	for i := range n.added {
		h := n.addedHeader(i)
		body += varlongLen(int64(len(h.Key))) + len(h.Key)
		body += varlongLen(int64(len(h.Value))) + len(h.Value)
	}
	l.headerCount = n.keptCount + n.added
	l.bodyLen = body + varlongLen(int64(l.headerCount))
	l.totalLen = varlongLen(int64(l.bodyLen)) + l.bodyLen
	return l
}

// put appends n, for which l was computed.
func (s *section) put(n *NewRecord, l *layout) {
	end := len(s.buf)
	if cap(s.buf)-end < l.totalLen {
		s.grow(l.totalLen)
	}
	s.buf = s.buf[:end+l.totalLen]
	b := s.buf[end:]
	at := putVarlong(b, 0, int64(l.bodyLen))
	b[at] = 0
	at = putVarlong(b, at+1, l.timestampDelta)
	at = putVarlong(b, at, l.offsetDelta)
	at = putNullable(b, at, n.key)
	if n.parts > 0 {
		at = putVarlong(b, at, int64(l.valueLen))
		for i := range n.parts {
			if part := n.part(i); len(part) > few {
				at += copy(b[at:], part)
			} else {
				at += copyBytes(b[at:], part)
			}
		}
	} else {
		at = putNullable(b, at, n.value)
	}
	at = putVarlong(b, at, int64(l.headerCount))
	if len(n.kept) > 0 {
		at += copyBytes(b[at:], n.kept)
	}
	for i := range n.added {
		h := n.addedHeader(i)
		at = putVarlong(b, at, int64(len(h.Key)))
		at += copy(b[at:], h.Key)
		at = putNullable(b, at, h.Value)
	}
}

// grow makes room for more bytes: twice of what was needed, so that all growing together copies little.
func (s *section) grow(more int) {
	need := len(s.buf) + more
	grown := make([]byte, len(s.buf), max(need, min(2*need, sectionBytesMax+frontBytes)))
	copy(grown, s.buf)
	s.buf = grown
}

// putHeader writes the section's header to b.
func (s *section) putHeader(b []byte) {
	binary.LittleEndian.PutUint32(b, uint32(s.topic))
	binary.LittleEndian.PutUint32(b[4:], uint32(s.placement))
	binary.LittleEndian.PutUint64(b[8:], uint64(s.baseTimestamp))
	binary.LittleEndian.PutUint64(b[16:], uint64(s.maxTimestamp))
	binary.LittleEndian.PutUint32(b[24:], uint32(s.recordCount))
	binary.LittleEndian.PutUint32(b[28:], uint32(len(s.buf)-frontBytes))
}

func putNullable(b []byte, at int, bytes []byte) int {
	if bytes == nil {
		b[at] = 1 // -1
		return at + 1
	}
	at = putVarlong(b, at, int64(len(bytes)))
	return at + copyBytes(b[at:], bytes)
}

// copyBytes copies all of from to the front of to, which has room for it. Words overlap, so that there are no loops.
func copyBytes(to, from []byte) int {
	le := binary.LittleEndian
	n := len(from)
	to = to[:n]
	switch {
	case n > few:
		return copy(to, from)
	case n > 16:
		a, b, c, d := le.Uint64(from), le.Uint64(from[8:]), le.Uint64(from[n-16:]), le.Uint64(from[n-8:])
		le.PutUint64(to, a)
		le.PutUint64(to[8:], b)
		le.PutUint64(to[n-16:], c)
		le.PutUint64(to[n-8:], d)
	case n >= 8:
		a, b := le.Uint64(from), le.Uint64(from[n-8:])
		le.PutUint64(to, a)
		le.PutUint64(to[n-8:], b)
	case n >= 4:
		a, b := le.Uint32(from), le.Uint32(from[n-4:])
		le.PutUint32(to, a)
		le.PutUint32(to[n-4:], b)
	case n > 0:
		a, b, c := from[0], from[n>>1], from[n-1]
		to[0], to[n>>1], to[n-1] = a, b, c
	}
	return n
}
