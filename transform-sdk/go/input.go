package tidemill

import "errors"

// inputBatch is a batch of the input. Its records are walked in place; no length in them is trusted.
type inputBatch struct {
	baseOffset    int64
	baseTimestamp int64
	recordCount   uint32
	records       []byte
}

var (
	errRecordLength  = errors.New("a record's length is malformed")
	errRecordLong    = errors.New("a record is longer than its batch")
	errRecordEmpty   = errors.New("a record is empty")
	errTimestamp     = errors.New("a record's timestamp is malformed")
	errOffset        = errors.New("a record's offset is malformed")
	errKey           = errors.New("a record's key is malformed")
	errValue         = errors.New("a record's value is malformed")
	errHeaderCount   = errors.New("a record's number of headers is malformed")
	errHeaderMissing = errors.New("a header is malformed")
	errHeadersLong   = errors.New("bytes follow a record's last header")
	errBatchLong     = errors.New("bytes follow a batch's last record")
)

// take reads the record at b.records[at:] into in and gives the place behind it.
func (b *inputBatch) take(in *inputRecord, at int) (int, error) {
	records := b.records
	n, at := takeVarint(records, at)
	if at < 0 || n < 0 {
		return 0, errRecordLength
	}
	if n > len(records)-at {
		return 0, errRecordLong
	}
	if n == 0 {
		return 0, errRecordEmpty
	}
	end := at + n
	body := records[:end]
	// The attributes of a record mean nothing so far.
	timestamp, at := takeVarlong(body, at+1)
	if at < 0 {
		return 0, errTimestamp
	}
	offset, ok := oneByte(body, at)
	if at++; !ok {
		if offset, at = takeVarint(body, at-1); at < 0 {
			return 0, errOffset
		}
	}
	in.timestamp = b.baseTimestamp + timestamp
	in.offset = b.baseOffset + int64(offset)
	if in.key, at = takeNullable(body, at); at < 0 {
		return 0, errKey
	}
	if in.value, at = takeNullable(body, at); at < 0 {
		return 0, errValue
	}
	if at == end-1 && body[at] == 0 {
		// No headers, as most have it.
		in.headers, in.headerCount = nil, 0
		return end, nil
	}
	count, at := takeVarint(body, at)
	if at < 0 || count < 0 {
		return 0, errHeaderCount
	}
	in.headers, in.headerCount = body[at:end:end], count
	return end, checkHeaders(in.headers, count)
}

// checkHeaders checks that count headers fill the bytes to the end.
func checkHeaders(headers []byte, count int) error {
	at := 0
	for range count {
		if _, _, at = takeHeader(headers, at); at < 0 {
			return errHeaderMissing
		}
	}
	if at != len(headers) {
		return errHeadersLong
	}
	return nil
}
