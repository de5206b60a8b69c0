package tidemill

import "math/bits"

// Numbers of records (KIP-98): zigzag, seven bits a byte, the lowest first.

// varlongBytesMax is the number of bytes that a 64-bit number takes at most.
const varlongBytesMax = 10

// takeVarlong reads the number at b[at:] and gives the place behind it; -1 where it is cut or too long. Most numbers have a byte or two.
func takeVarlong(b []byte, at int) (int64, int) {
	if at+1 < len(b) {
		first := b[at]
		if first < 0x80 {
			return int64(first>>1) ^ -int64(first&1), at + 1
		}
		if second := b[at+1]; second < 0x80 {
			value := uint64(first&0x7f) | uint64(second)<<7
			return int64(value>>1) ^ -int64(value&1), at + 2
		}
	}
	return takeLongVarlong(b, at)
}

func takeLongVarlong(b []byte, at int) (int64, int) {
	var value uint64
	for i := 0; i < varlongBytesMax; i++ {
		if at+i >= len(b) {
			return 0, -1
		}
		c := b[at+i]
		value |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if i == varlongBytesMax-1 && c > 1 {
				return 0, -1
			}
			return int64(value>>1) ^ -int64(value&1), at + i + 1
		}
	}
	return 0, -1
}

// oneByte reads the number at b[at] if it has a byte only, as most have, and says whether it does.
func oneByte(b []byte, at int) (int, bool) {
	if at >= len(b) {
		return 0, false
	}
	c := b[at]
	return int(c>>1) ^ -int(c&1), c < 0x80
}

// takeVarint is takeVarlong for a number that must fit 32 bits.
func takeVarint(b []byte, at int) (int, int) {
	if at+1 < len(b) && b[at] >= 0x80 && b[at+1] < 0x80 {
		value := int(b[at]&0x7f) | int(b[at+1])<<7
		return value>>1 ^ -(value & 1), at + 2
	}
	value, next := takeVarlong(b, at)
	if value != int64(int32(value)) {
		return 0, -1
	}
	return int(value), next
}

// varlongLen gives the number of bytes that value takes: a seventh of its bits, rounded up, without a division.
func varlongLen(value int64) int {
	return (9*bits.Len64(zigzag(value)) + 64) >> 6
}

// putVarlong writes value to b[at:], which has room for it, and gives the place behind it.
func putVarlong(b []byte, at int, value int64) int {
	rest := zigzag(value)
	if rest < 0x80 {
		b[at] = byte(rest)
		return at + 1
	}
	return putLongVarlong(b, at, rest)
}

func putLongVarlong(b []byte, at int, rest uint64) int {
	for rest >= 0x80 {
		b[at] = byte(rest) | 0x80
		rest >>= 7
		at++
	}
	b[at] = byte(rest)
	return at + 1
}

func zigzag(value int64) uint64 {
	return uint64(value<<1) ^ uint64(value>>63)
}
