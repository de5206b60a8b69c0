package tidemill

import "testing"

func TestNumbersOfEveryLengthComeBack(t *testing.T) {
	for bit := range 64 {
		for _, value := range []int64{1 << bit, 1<<bit - 1, -(1 << bit), 0} {
			room := make([]byte, varlongBytesMax)
			n := putVarlong(room, 0, value)
			if n != varlongLen(value) {
				t.Errorf("%d takes %d bytes, not %d", value, n, varlongLen(value))
			}
			if got, next := takeVarlong(room, 0); got != value || next != n {
				t.Errorf("%d came back as %d", value, got)
			}
			if _, next := takeVarlong(room[:n-1], 0); next >= 0 {
				t.Errorf("%d was read from too few bytes", value)
			}
		}
	}
}

func TestNumberWithTooManyBytesOrBitsIsRefused(t *testing.T) {
	for _, bytes := range [][]byte{
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2},
		{},
	} {
		if _, next := takeVarlong(bytes, 0); next >= 0 {
			t.Errorf("%x was read", bytes)
		}
	}
	if _, next := takeVarint([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 1}, 0); next >= 0 {
		t.Error("a number beyond 32 bits was read")
	}
}
