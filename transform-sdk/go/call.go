package tidemill

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
)

// A call and its answer, as wit/core-module.md has them.

const (
	// contract is the version of that page.
	contract = 1
	// callHeaderBytes are those before a call's first batch, batchHeaderBytes those before a batch's records, and
	// failureHeaderBytes those before a failure's message.
	callHeaderBytes    = 12
	batchHeaderBytes   = 24
	failureHeaderBytes = 12

	answerOutcome = 0
	answerFailed  = 1
)

// Function is what a transform is: it writes what becomes of a record. An error refuses the record.
type Function func(record Record, output *Output) error

var registered Function

// Register says which function the transform is. It is called once, in init.
func Register(function func(record Record, output *Output) error) {
	if function == nil {
		panic("tidemill: Register was given no function")
	}
	if registered != nil {
		// The command line looks for the beginning of this text in a module: without it nothing calls Register.
		panic("tidemill: Register was called twice; a transform is one function")
	}
	registered = function
}

// instance is a function with its outputs.
type instance struct {
	function Function
	output   *Output
	// last is the section that the last answer lies in, if it lies in one.
	last *section
}

// newInstance makes an instance of the registered function, with the outputs that the environment names.
func newInstance() (*instance, error) {
	if registered == nil {
		return nil, errors.New("there is no function: call tidemill.Register in init")
	}
	var topics []string
	for _, name := range strings.Split(os.Getenv("TIDEMILL_OUTPUTS"), ",") {
		if name != "" {
			topics = append(topics, name)
		}
	}
	if len(topics) == 0 {
		return nil, errors.New("TIDEMILL_OUTPUTS names no output topic")
	}
	return &instance{function: registered, output: newOutput(topics)}, nil
}

// process transforms a call and gives the answer, which is good until the next call.
func (i *instance) process(call []byte) []byte {
	i.forgetAnswer()
	if err := i.run(call); err != nil {
		i.output.reset()
		return failed("the input cannot be read: " + err.Error())
	}
	return i.answer()
}

// forgetAnswer lets the room of the last answer be used again.
func (i *instance) forgetAnswer() {
	if i.last != nil {
		i.output.release(i.last)
		i.last = nil
	}
}

// run hands every record of the call to the function.
func (i *instance) run(call []byte) error {
	if len(call) < callHeaderBytes {
		return errors.New("the call is cut")
	}
	if version := binary.LittleEndian.Uint32(call); version != contract {
		return errors.New("the call is of another version of the contract")
	}
	o := i.output
	o.input.partition = int32(binary.LittleEndian.Uint32(call[4:]))
	o.expected = len(call) + len(call)/8
	batches := binary.LittleEndian.Uint32(call[8:])
	call = call[callHeaderBytes:]
	for range batches {
		batch, rest, err := takeBatch(call)
		if err != nil {
			return err
		}
		if err := i.runBatch(&batch); err != nil {
			return err
		}
		call = rest
	}
	if len(call) != 0 {
		return errors.New("bytes follow the last batch")
	}
	return nil
}

func takeBatch(call []byte) (inputBatch, []byte, error) {
	if len(call) < batchHeaderBytes {
		return inputBatch{}, nil, errors.New("a batch is cut")
	}
	batch := inputBatch{
		baseOffset:    int64(binary.LittleEndian.Uint64(call)),
		baseTimestamp: int64(binary.LittleEndian.Uint64(call[8:])),
		recordCount:   binary.LittleEndian.Uint32(call[16:]),
	}
	size := uint64(binary.LittleEndian.Uint32(call[20:]))
	call = call[batchHeaderBytes:]
	if size > uint64(len(call)) {
		return inputBatch{}, nil, errors.New("a batch is longer than its call")
	}
	batch.records = call[:size:size]
	return batch, call[size:], nil
}

func (i *instance) runBatch(batch *inputBatch) error {
	o := i.output
	at := 0
	for range batch.recordCount {
		var err error
		if at, err = batch.take(&o.input, at); err != nil {
			return err
		}
		o.begin()
		err = i.function(Record{in: &o.input}, o)
		if err == nil {
			err = o.refused
		}
		if err != nil {
			o.fail(err)
		}
	}
	if at != len(batch.records) {
		return errBatchLong
	}
	return nil
}

// answer tells what was written and what failed, and forgets it.
func (i *instance) answer() []byte {
	o := i.output
	o.endAll()
	var answer []byte
	if len(o.done) == 1 {
		// The usual case: nothing is copied.
		s := o.done[0]
		i.last = s
		s.putHeader(s.buf[answerHeaderBytes:])
		answer = s.buf
		putAnswerHeader(answer, 1, len(o.failures))
		s.buf = o.appendFailures(answer)
		answer = s.buf
	} else {
		answer = o.together()
	}
	o.forget(i.last)
	return answer
}

// together puts all sections and failures into one answer.
func (o *Output) together() []byte {
	size := answerHeaderBytes
	for _, s := range o.done {
		size += len(s.buf) - answerHeaderBytes
	}
	for _, f := range o.failures {
		size += failureHeaderBytes + len(f.message)
	}
	answer := o.answer
	if cap(answer) < size {
		answer = make([]byte, 0, size)
	}
	o.answer = nil
	if cap(answer) <= spareBytesMax {
		o.answer = answer
	}
	answer = answer[:answerHeaderBytes]
	putAnswerHeader(answer, len(o.done), len(o.failures))
	for _, s := range o.done {
		s.putHeader(s.buf[answerHeaderBytes:])
		answer = append(answer, s.buf[answerHeaderBytes:]...)
	}
	return o.appendFailures(answer)
}

func (o *Output) appendFailures(answer []byte) []byte {
	for _, f := range o.failures {
		answer = binary.LittleEndian.AppendUint64(answer, uint64(f.offset))
		answer = binary.LittleEndian.AppendUint32(answer, uint32(len(f.message)))
		answer = append(answer, f.message...)
	}
	return answer
}

// reset forgets a call that could not be done.
func (o *Output) reset() {
	o.endAll()
	o.forget(nil)
}

// forget forgets what was written; but for the section except, it is used again.
func (o *Output) forget(except *section) {
	for _, s := range o.done {
		if s != except {
			o.release(s)
		}
	}
	clear(o.done)
	o.done = o.done[:0]
	clear(o.failures)
	o.failures = o.failures[:0]
	o.input = inputRecord{names: &o.names, partition: o.input.partition}
	o.refused = nil
}

func putAnswerHeader(b []byte, sections, failures int) {
	binary.LittleEndian.PutUint32(b, answerOutcome)
	binary.LittleEndian.PutUint32(b[4:], uint32(sections))
	binary.LittleEndian.PutUint32(b[8:], uint32(failures))
}

// failed is the answer of a call that could not be done.
func failed(message string) []byte {
	answer := binary.LittleEndian.AppendUint32(nil, answerFailed)
	return append(answer, cut(message)...)
}
