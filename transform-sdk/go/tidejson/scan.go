package tidejson

import (
	"encoding/binary"
	"math/bits"
)

const (
	ones = 0x0101010101010101
	high = ones << 7
)

// special marks, by its highest bit, the first byte of a word that is a quote, a backslash or a control character; 0 where there is none.
// This is the test for a zero byte in a word (Warren, Hacker's Delight, 6-1). Borrows spread upwards only, so the lowest bit is exact.
func special(word uint64) uint64 {
	quote := word ^ ones*'"'
	backslash := word ^ ones*'\\'
	return ((quote-ones)&^quote | (backslash-ones)&^backslash | (word-ones*0x20)&^word) & high
}

// place gives the place of the first special byte of a word; 8 where there is none.
func place(word uint64) int {
	return bits.TrailingZeros64(special(word)) >> 3
}

// plain gives the place, from at on, of the first special byte; the end where there is none.
func (s *scanner) plain(at int) int {
	for at+8 <= len(s.text) {
		word := binary.LittleEndian.Uint64(s.text[at:])
		s.seen |= word
		n := place(word)
		if at += n; n < 8 {
			return at
		}
	}
	word := lastWord(s.text, at)
	s.seen |= word
	return at + place(word)
}

// lastWord gives the fewer than eight bytes from at on as a word, with zeros behind them, which special marks.
func lastWord(text []byte, at int) uint64 {
	rest := len(text) - at
	if len(text) >= 8 && rest >= 0 {
		return binary.LittleEndian.Uint64(text[len(text)-8:]) >> (64 - 8*rest)
	}
	var word uint64
	for i := 0; i < rest; i++ {
		word |= uint64(text[at+i]) << (8 * i)
	}
	return word
}
