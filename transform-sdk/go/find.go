package tidemill

import (
	"encoding/binary"
	"math/bits"
)

// FindLast gives the place of the last b in text; -1 where there is none. It does what bytes.LastIndexByte does, but looks at eight
// bytes at once, which is several times faster in a module.
func FindLast(text []byte, b byte) int {
	const ones = 0x0101010101010101
	const low = ones * 0x7f
	end := len(text)
	for ; end >= 8; end -= 8 {
		word := binary.LittleEndian.Uint64(text[end-8:]) ^ ones*uint64(b)
		// The highest bit of a byte that is 0, and of no other: nothing is carried from one byte to the next.
		if zero := ^(word&low + low | word | low); zero != 0 {
			return end - 1 - bits.LeadingZeros64(zero)>>3
		}
	}
	for end--; end >= 0; end-- {
		if text[end] == b {
			return end
		}
	}
	return -1
}
