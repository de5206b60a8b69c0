package tidejson

import (
	"encoding/binary"
	"math/bits"
)

const (
	ones = 0x0101010101010101
	high = ones << 7
)

// special gives the place, from at on, of the first quote, backslash or control character; the end where there is none. Eight bytes at
// a time, by the test for a zero byte in a word (Warren, Hacker's Delight, 6-1).
func special(text []byte, at int) int {
	for ; at+8 <= len(text); at += 8 {
		word := binary.LittleEndian.Uint64(text[at:])
		quote := word ^ ones*'"'
		backslash := word ^ ones*'\\'
		found := (quote-ones)&^quote | (backslash-ones)&^backslash | (word-ones*0x20)&^word
		// Borrows spread upwards only, so the lowest bit set is exact.
		if found &= high; found != 0 {
			return at + bits.TrailingZeros64(found)>>3
		}
	}
	for ; at < len(text); at++ {
		if b := text[at]; b < 0x20 || b == '"' || b == '\\' {
			break
		}
	}
	return at
}

// isASCII says whether every byte is below 128.
func isASCII(text []byte) bool {
	for ; len(text) >= 32; text = text[32:] {
		if (binary.LittleEndian.Uint64(text)|binary.LittleEndian.Uint64(text[8:])|
			binary.LittleEndian.Uint64(text[16:])|binary.LittleEndian.Uint64(text[24:]))&high != 0 {
			return false
		}
	}
	for ; len(text) >= 8; text = text[8:] {
		if binary.LittleEndian.Uint64(text)&high != 0 {
			return false
		}
	}
	for _, b := range text {
		if b >= 0x80 {
			return false
		}
	}
	return true
}
