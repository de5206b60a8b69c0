package tidejson

import (
	"encoding/binary"
	"math/bits"
)

const (
	// nameWindow and valueWindow are how many bytes of a member's name and of its value are looked at in one go.
	nameWindow  = 16
	valueWindow = 32
	// memberWindow is all that is looked at for a member: both, four quotes, a colon, a comma, and a byte that is read with them.
	memberWindow = nameWindow + valueWindow + 7
	// smallBytes is up to how many bytes a text is copied, with zeros behind it, so that the last member fits its window too.
	smallBytes = 448

	nameEnd  = '"' | ':'<<8 | '"'<<16
	valueEnd = '"' | ','<<8 | '"'<<16
	// one, two and three are the bits of so many bytes.
	one   = 1<<8 - 1
	two   = 1<<16 - 1
	three = 1<<24 - 1
)

// small is strings for a short text.
func (s *scanner) small(spans []Span, name string) ([]Span, error) {
	var room [smallBytes + memberWindow]byte
	text := s.text
	copy(room[:], text)
	found, err := s.document(spans, name, room[:len(text)+memberWindow])
	if err != nil || s.seen&high != 0 {
		return s.checked(found, err)
	}
	return found, nil
}

// state is where in a text a scanner is.
type state int

const (
	// atName expects a member's name, atValue a value, atWanted one that is wanted if it is a string, and afterValue what may follow one.
	atName state = iota
	atValue
	atWanted
	afterValue
)

// members goes through plain members of an object as most are: "name":"value", with no white space or escapes in it, neither of the two
// longer than its window, and another member behind. It begins at the quote of a member's name, and ends within the first
// member that is any different. In WebAssembly every jump is dear: this takes one for a member.
func (s *scanner) members(spans []Span, at int, name string, text []byte) ([]Span, int, state) {
	outermost := s.open.depth == 1
	for at+memberWindow <= len(text) {
		window := text[at : at+memberWindow]
		w0, w1 := binary.LittleEndian.Uint64(window[1:]), binary.LittleEndian.Uint64(window[9:])
		// A word without a special byte counts 8, and then what the next one has is added.
		n := place(w0)
		n += (n >> 3) * place(w1)
		value := n + 4
		v := window[value : value+valueWindow]
		v0, v1 := binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])
		v2, v3 := binary.LittleEndian.Uint64(v[16:]), binary.LittleEndian.Uint64(v[24:])
		n0, n1, n2, n3 := place(v0), place(v1), place(v2), place(v3)
		end := value + n0 + (n0>>3)*(n1+(n1>>3)*(n2+(n2>>3)*n3))
		nameBad := binary.LittleEndian.Uint32(window[n+1:]) ^ nameEnd
		valueBad := binary.LittleEndian.Uint32(window[end:]) ^ valueEnd
		s.seen |= w0 | w1 | v0 | v1 | v2 | v3
		if nameBad&two != 0 {
			return spans, at, atName
		}
		wanted := outermost && n == len(name) && string(window[1:n+1]) == name
		if nameBad&three != 0 || valueBad&one != 0 {
			if wanted {
				return spans, at + n + 3, atWanted
			}
			if digits := digitsBefore(binary.LittleEndian.Uint64(window[n+3:])); digits > 0 && window[n+4+digits] == '"' {
				at += n + 4 + digits
				continue
			}
			return spans, at + n + 3, atValue
		}
		if wanted {
			spans = append(spans, Span{at + value, at + end})
		}
		if valueBad&three != 0 {
			return spans, at + end + 1, afterValue
		}
		at += end + 2
	}
	return spans, at, atName
}

// digitsBefore gives the number of digits at the front of a word if they are a whole number with a comma behind it; else 0.
func digitsBefore(word uint64) int {
	digits := word ^ ones*'0'
	// What is more than 9 reaches the highest bit; carries spread upwards only.
	n := bits.TrailingZeros64(((digits+ones*0x76)|digits)&high) >> 3
	if n == 0 || n == 8 || byte(word>>(8*n)) != ',' || n > 1 && byte(word) == '0' {
		return 0
	}
	return n
}
