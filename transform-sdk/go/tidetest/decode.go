package tidetest

import (
	"fmt"

	tidemill "tidemill.dev/sdk"
)

// sectionBytesMax is how large a section of several records may be, in bytes: a batch of Kafka's default max.message.bytes, less its
// header.
const sectionBytesMax = 1_048_588 - 61

// decode reads an answer as strictly as the broker does.
func (r *Ran) decode(answer []byte) error {
	in := &reader{rest: answer}
	if in.u32() != 0 {
		return fmt.Errorf("the call failed: %s", in.rest)
	}
	sections, failures := in.u32(), in.u32()
	for range sections {
		if err := r.section(in); err != nil {
			return err
		}
	}
	for range failures {
		offset := in.i64()
		message := string(in.take(int64(in.u32())))
		if in.err != nil {
			return in.err
		}
		r.failures = append(r.failures, Failure{offset, message})
	}
	if in.err == nil && len(in.rest) > 0 {
		return fmt.Errorf("%d bytes follow it", len(in.rest))
	}
	return in.err
}

func (r *Ran) section(in *reader) error {
	output, placement := in.u32(), int32(in.u32())
	base, largest := in.i64(), in.i64()
	count := in.u32()
	records := &reader{rest: in.take(int64(in.u32()))}
	if in.err != nil {
		return in.err
	}
	if size := len(records.rest); size > sectionBytesMax && count > 1 {
		return fmt.Errorf("it has a section of %d records with %d bytes, which no topic takes by default", count, size)
	}
	if int(output) >= len(r.topics) || count == 0 || placement < -2 {
		return fmt.Errorf("it has a section of %d records for output %d, placed %d", count, output, placement)
	}
	topic := r.topics[output]
	seen := int64(0)
	for n := range count {
		record, err := decodeRecord(records, base, int64(n))
		if err != nil {
			return err
		}
		if n == 0 || record.Timestamp > seen {
			seen = record.Timestamp
		}
		record.Placement = placementOf(placement)
		r.records[topic] = append(r.records[topic], record)
	}
	if len(records.rest) > 0 || seen != largest {
		return fmt.Errorf("it has a section with %d bytes too many, largest timestamp %d of %d", len(records.rest), largest, seen)
	}
	return nil
}

func placementOf(code int32) Placement {
	switch code {
	case -1:
		return ByInput
	case -2:
		return ByKey
	}
	return Partition(code)
}

// decodeRecord reads record number n of a section.
func decodeRecord(section *reader, base, n int64) (Record, error) {
	in := &reader{rest: section.take(section.varint()), err: section.err}
	in.take(1)
	record := Record{Timestamp: base + in.varint()}
	if offset := in.varint(); in.err == nil && offset != n {
		return record, fmt.Errorf("record %d of a section says it is %d", n, offset)
	}
	record.Key = in.nullable()
	record.Value = in.nullable()
	headers := in.varint()
	for i := int64(0); i < headers && in.err == nil; i++ {
		key := string(in.nullable())
		record.Headers = append(record.Headers, tidemill.Header{Key: key, Value: in.nullable()})
	}
	if in.err == nil && len(in.rest) > 0 {
		return record, fmt.Errorf("%d bytes follow record %d of a section", len(in.rest), n)
	}
	return record, in.err
}
