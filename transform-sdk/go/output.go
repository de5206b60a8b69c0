package tidemill

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// sectionBytesMax ends a section when the next record would make it larger than this many bytes, so that it fits a batch of
	// Kafka's default max.message.bytes (1,048,588).
	sectionBytesMax = 900 * 1024
	// recordBytesMax is how large a record may be, in bytes; lengths in a section are 32-bit numbers.
	recordBytesMax = 1 << 30
	// messageBytesMax is how many bytes the message of a failure is cut to.
	messageBytesMax = 1024
	// openSectionsMax bounds the sections that grow at the same time. One more, and all are ended.
	openSectionsMax = 64
	// sectionBytesFirst is what a section has room for at first, unless more is known.
	sectionBytesFirst = 4 * 1024
	// spareBytesMax bounds the room that is kept for the next call.
	spareBytesMax = 4 << 20
)

var errRecordTooLarge = errors.New("the record is larger than 1 GiB")

// Output is where a transform writes. Its default output is the first that was declared. It is good until the function it was
// handed to returns.
type Output struct {
	topics []*Topic
	input  inputRecord
	names  names

	// record is the number of the record at hand, counted over all calls.
	record uint64
	// refused is the first error that a Write for the record at hand ended with.
	refused error
	// open sections grow, one for each output and placement; done ones came to their end, and doneBefore of them did so before the
	// record at hand.
	open       []*section
	done       []*section
	doneBefore int
	failures   []failure
	// expected is about how many bytes the first section will take.
	expected int

	// spare sections, emptied, to be used again.
	spare []*section
	// answer is room for answers that are not a section alone.
	answer []byte
}

// Topic is one of the outputs, from [Output.To].
type Topic struct {
	output *Output
	name   string
	index  int
	// last is the section that the topic was last written to, if it still grows.
	last *section
	// unknown is set where there is no such output.
	unknown error
}

// failure is a record that the function refused.
type failure struct {
	offset  int64
	message string
}

// newOutput makes outputs of these names, at least one.
func newOutput(topics []string) *Output {
	o := &Output{}
	o.input.names = &o.names
	for index, name := range topics {
		o.topics = append(o.topics, &Topic{output: o, name: name, index: index})
	}
	return o
}

// Write writes a record to the default output.
//
// It fails where the record is too large or was sent to a negative partition. Then the input record fails with it, even if the
// function goes on and returns nil: a record is never lost because nobody looked at an error.
func (o *Output) Write(record *NewRecord) error { return o.topics[0].write(record) }

// Forward hands record on to the default output as it is.
func (o *Output) Forward(record Record) error { return o.topics[0].Forward(record) }

// To gives the output called topic. Where the transform was not deployed with such an output, writing to it fails with an error that
// names those it has.
func (o *Output) To(topic string) *Topic {
	for _, t := range o.topics {
		if t.name == topic {
			return t
		}
	}
	return o.unknown(topic)
}

// Topics gives the names of the outputs, in the order they were declared.
func (o *Output) Topics() []string {
	names := make([]string, len(o.topics))
	for i, t := range o.topics {
		names[i] = t.name
	}
	return names
}

func (o *Output) unknown(topic string) *Topic {
	return &Topic{output: o, name: topic, unknown: fmt.Errorf(
		"%q is not an output of this transform, which has: %s; declare it in transform.toml, or with --output, and deploy again",
		topic, strings.Join(o.Topics(), ", "))}
}

// Name gives the topic's name.
func (t *Topic) Name() string { return t.name }

// Write writes a record to this output. It fails as [Output.Write] does, and where the transform has no such output.
func (t *Topic) Write(record *NewRecord) error { return t.write(record) }

// Forward hands record on to this output as it is. It fails as [Topic.Write] does.
func (t *Topic) Forward(record Record) error { return t.write(record.Edit()) }

func (t *Topic) write(n *NewRecord) error {
	o := t.output
	placement := placeByInput
	if t.unknown != nil {
		return o.refuse(t.unknown)
	}
	if !n.isPlacedByInput(&o.input) {
		var err error
		if placement, err = n.placement(&o.input); err != nil {
			return o.refuse(err)
		}
	}
	timestamp := n.timestamp
	if !n.timed {
		timestamp = o.input.timestamp
	}
	s := t.last
	if s == nil || s.placement != placement {
		s = o.section(t, placement)
	}
	delta := timestamp - s.baseTimestamp
	if s.recordCount == 0 {
		delta = 0
	} else if (delta < 0) != (timestamp < s.baseTimestamp) {
		// Too far from the section's first: no difference of timestamps says so, and the broker refuses one that overflows.
		s, delta = o.next(t, s), 0
	}
	l := n.lay(delta, int64(s.recordCount))
	if l.totalLen > recordBytesMax {
		return o.refuse(errRecordTooLarge)
	}
	if s.recordCount > 0 && len(s.buf)-frontBytes+l.totalLen > sectionBytesMax {
		s = o.next(t, s)
		l = n.lay(0, 0)
	}
	if s.marked != o.record {
		s.mark(o.record)
	}
	if s.recordCount == 0 {
		s.baseTimestamp, s.maxTimestamp = timestamp, timestamp
	}
	s.maxTimestamp = max(s.maxTimestamp, timestamp)
	s.put(n, &l)
	s.recordCount++
	return nil
}

// refuse remembers the first error of the record at hand.
func (o *Output) refuse(err error) error {
	if o.refused == nil {
		o.refused = err
	}
	return err
}

// section gives the growing section of t with this placement.
func (o *Output) section(t *Topic, placement int32) *section {
	for _, s := range o.open {
		if s.topic == t.index && s.placement == placement {
			t.last = s
			return s
		}
	}
	if len(o.open) >= openSectionsMax {
		o.endAll()
	}
	s := o.take()
	s.topic, s.placement, s.born = t.index, placement, o.record
	o.open = append(o.open, s)
	t.last = s
	return s
}

// next ends s, which holds records, and gives the one after it.
func (o *Output) next(t *Topic, s *section) *section {
	for i, open := range o.open {
		if open == s {
			next := o.take()
			next.topic, next.placement, next.born = t.index, s.placement, o.record
			o.open[i] = next
			o.done = append(o.done, s)
			t.last = next
			return next
		}
	}
	panic("tidemill: a section that grows is not among the open ones")
}

// endAll ends all sections. An empty one was opened for a record that was then refused.
func (o *Output) endAll() {
	for _, s := range o.open {
		if s.recordCount > 0 {
			o.done = append(o.done, s)
		} else {
			o.release(s)
		}
	}
	o.forgetOpen()
}

func (o *Output) forgetOpen() {
	clear(o.open)
	o.open = o.open[:0]
	for _, t := range o.topics {
		t.last = nil
	}
}

// begin starts a record.
func (o *Output) begin() {
	o.record++
	o.refused = nil
	o.doneBefore = len(o.done)
}

// fail takes back what was written for the record at hand, and notes why it failed.
func (o *Output) fail(err error) {
	kept := o.takeBack(o.done[o.doneBefore:])
	clear(o.done[o.doneBefore+kept:])
	o.done = o.done[:o.doneBefore+kept]
	kept = o.takeBack(o.open)
	clear(o.open[kept:])
	o.open = o.open[:kept]
	for _, t := range o.topics {
		t.last = nil
	}
	o.failures = append(o.failures, failure{offset: o.input.offset, message: cut(err.Error())})
}

// takeBack makes sections what they were before the record at hand, and moves those that were there to the front: how many.
func (o *Output) takeBack(sections []*section) int {
	kept := 0
	for _, s := range sections {
		if s.born == o.record {
			o.release(s)
			continue
		}
		if s.marked == o.record {
			s.buf = s.buf[:s.markLen]
			s.recordCount, s.maxTimestamp = s.markN, s.markMax
		}
		sections[kept] = s
		kept++
	}
	return kept
}

// take gives an empty section.
func (o *Output) take() *section {
	if n := len(o.spare); n > 0 {
		s := o.spare[n-1]
		o.spare[n-1] = nil
		o.spare = o.spare[:n-1]
		return s
	}
	room := max(sectionBytesFirst, min(o.expected, sectionBytesMax))
	o.expected = 0
	return &section{buf: make([]byte, frontBytes, frontBytes+room)}
}

// release keeps s to be used again, unless enough are kept.
func (o *Output) release(s *section) {
	kept := cap(s.buf)
	for _, spare := range o.spare {
		kept += cap(spare.buf)
	}
	if kept > spareBytesMax || cap(s.buf) > 2*sectionBytesMax {
		return
	}
	*s = section{buf: s.buf[:frontBytes]}
	o.spare = append(o.spare, s)
}

// cut makes a message UTF-8 of at most messageBytesMax bytes and a mark.
func cut(message string) string {
	message = strings.ToValidUTF8(message, "\uFFFD")
	if len(message) <= messageBytesMax {
		return message
	}
	end := messageBytesMax
	for !utf8.RuneStart(message[end]) {
		end--
	}
	return message[:end] + "..."
}

func noPartition(partition int32) error {
	return fmt.Errorf("there is no partition %d", partition)
}
