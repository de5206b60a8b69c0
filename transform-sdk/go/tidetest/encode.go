package tidetest

import (
	"encoding/binary"
	"errors"
)

// encodeCall makes a call with one batch of records, as wit/core-module.md has it. Offsets count from 0.
func encodeCall(partition int32, records []Record) []byte {
	var section []byte
	for i := range records {
		section = appendRecord(section, &records[i], int64(i))
	}
	le := binary.LittleEndian
	call := le.AppendUint32(nil, 1)
	call = le.AppendUint32(call, uint32(partition))
	call = le.AppendUint32(call, 1)
	call = append(call, make([]byte, 16)...) // base offset and base timestamp
	call = le.AppendUint32(call, uint32(len(records)))
	call = le.AppendUint32(call, uint32(len(section)))
	return append(call, section...)
}

// appendRecord appends a record of a section that counts from timestamp 0 (KIP-98).
func appendRecord(section []byte, r *Record, offset int64) []byte {
	body := []byte{0}
	body = binary.AppendVarint(body, r.Timestamp)
	body = binary.AppendVarint(body, offset)
	body = appendNullable(body, r.Key)
	body = appendNullable(body, r.Value)
	body = binary.AppendVarint(body, int64(len(r.Headers)))
	for _, h := range r.Headers {
		body = binary.AppendVarint(body, int64(len(h.Key)))
		body = append(body, h.Key...)
		body = appendNullable(body, h.Value)
	}
	return append(binary.AppendVarint(section, int64(len(body))), body...)
}

func appendNullable(b, bytes []byte) []byte {
	if bytes == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(bytes))), bytes...)
}

var errCut = errors.New("it is cut")

// reader takes an answer apart. The first error stays.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int64) []byte {
	if r.err == nil && (n < 0 || n > int64(len(r.rest))) {
		r.err = errCut
	}
	if r.err != nil {
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) i64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.LittleEndian.Uint64(b))
	}
	return 0
}

func (r *reader) varint() int64 {
	value, n := binary.Varint(r.rest)
	if n <= 0 {
		r.err = errCut
		return 0
	}
	r.take(int64(n))
	return value
}

// nullable reads bytes with their length in front; they are copied.
func (r *reader) nullable() []byte {
	n := r.varint()
	if n == -1 {
		return nil
	}
	return append([]byte{}, r.take(n)...)
}
