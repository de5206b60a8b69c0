// Package tidejson finds strings in JSON in place: in the outermost object of a text, in one pass, without building a tree (RFC 8259).
//
//	value := []byte(`{"id":17,"email":"ada@example.com"}`)
//	emails, err := tidejson.Strings(value, "email")
//	// value[emails[0].Start:emails[0].End] is ada@example.com
package tidejson

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// Span is a place in a text: from Start up to End.
type Span struct {
	Start, End int
}

// NotJSON is the error for a text that is not JSON in UTF-8.
type NotJSON struct {
	// Expected says what was expected.
	Expected string
	// At is where, in bytes.
	At int
}

func (n *NotJSON) Error() string {
	return fmt.Sprintf("not JSON: %s at byte %d", n.Expected, n.At)
}

// Strings gives the place, between the quotes, of each string that is the value of a member called name of the outermost object. The
// place holds the string as it was written, escapes included. All of the text is checked; the error is a [*NotJSON].
func Strings(text []byte, name string) ([]Span, error) {
	return AppendStrings(nil, text, name)
}

// AppendStrings is Strings that appends the places to spans, which spares an allocation.
func AppendStrings(spans []Span, text []byte, name string) ([]Span, error) {
	s := scanner{text: text}
	found, err := s.document(spans, name)
	if (err != nil || s.seen&high != 0) && !utf8.Valid(text) {
		return spans, fail("UTF-8 was expected", validUpTo(text))
	}
	return found, err
}

func validUpTo(text []byte) int {
	at := 0
	for at < len(text) {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return at
}

// open are the brackets that are open, a bit each: whether it belongs to an object. Most texts are not 64 deep and need no memory.
type open struct {
	depth int
	// inner holds up to 64 brackets, the innermost in the lowest bit, and outer full words of those around them.
	inner uint64
	outer []uint64
}

func (o *open) push(isObject bool) {
	if o.depth > 0 && o.depth%64 == 0 {
		o.outer = append(o.outer, o.inner)
	}
	o.inner <<= 1
	if isObject {
		o.inner |= 1
	}
	o.depth++
}

func (o *open) pop() {
	o.depth--
	o.inner >>= 1
	if o.depth > 0 && o.depth%64 == 0 {
		last := len(o.outer) - 1
		o.inner = o.outer[last]
		o.outer = o.outer[:last]
	}
}

// inObject says whether the innermost open bracket, if there is one, belongs to an object.
func (o *open) inObject() bool { return o.depth > 0 && o.inner&1 == 1 }

type scanner struct {
	text []byte
	at   int
	open open
	// seen has the highest bit of a byte set where one beyond ASCII was met.
	seen uint64
}

// document goes through values without recursion, so that no nesting is too deep. What it does most often is all in here: in
// WebAssembly a call costs more than looking at eight bytes.
func (s *scanner) document(spans []Span, name string) ([]Span, error) {
	text, at := s.text, 0
	inKey, wanted, seen := false, false, uint64(0)
	for {
		if at >= len(text) || text[at] <= ' ' {
			at = skipSpace(text, at)
		}
		if at >= len(text) || text[at] != '"' {
			if inKey {
				return spans, fail("a member's name was expected", at)
			}
			s.at = at
			more, err := s.otherValue()
			if err != nil {
				return spans, err
			}
			if at = s.at; more {
				inKey, wanted = s.open.inObject(), false
				continue
			}
		} else {
			at++
			start, escaped := at, false
			for {
				var word uint64
				if at+8 <= len(text) {
					word = binary.LittleEndian.Uint64(text[at:])
				} else {
					word = lastWord(text, at)
				}
				seen |= word
				found := special(word)
				if found == 0 {
					at += 8
					continue
				}
				at += bits.TrailingZeros64(found) >> 3
				if at < len(text) && text[at] == '"' {
					break
				}
				next, err := escape(text, at)
				if err != nil {
					return spans, err
				}
				at, escaped = next, true
			}
			place := Span{start, at}
			at++
			if inKey {
				if at >= len(text) || text[at] != ':' {
					if at = skipSpace(text, at); at >= len(text) || text[at] != ':' {
						return spans, fail("a colon was expected", at)
					}
				}
				at++
				inKey = false
				if s.open.depth == 1 {
					wanted = string(text[place.Start:place.End]) == name
					if escaped {
						wanted = same(text[place.Start:place.End], name)
					}
				}
				continue
			}
			if wanted {
				spans = append(spans, place)
			}
		}
		wanted = false
		if at < len(text) && text[at] == ',' && s.open.depth > 0 {
			at++
			inKey = s.open.inner&1 == 1
			continue
		}
		s.at = at
		if more, err := s.afterValue(); !more {
			s.seen = seen
			return spans, err
		}
		at = s.at
		inKey = s.open.inObject()
	}
}

// escape gives the place behind what ended the plain part of a string without being its closing quote.
func escape(text []byte, at int) (int, error) {
	if at >= len(text) {
		return 0, fail("a closing quote was expected", len(text))
	}
	if text[at] < 0x20 {
		return 0, fail("a control character must be escaped", at)
	}
	n := escapeLen(text[at:])
	if n == 0 {
		return 0, fail("an escape was expected", at)
	}
	return at + n, nil
}

// otherValue reads what is no string; true where it is the bracket before a value or a name, with nothing of that read.
func (s *scanner) otherValue() (bool, error) {
	if s.at >= len(s.text) || s.text[s.at] != '{' && s.text[s.at] != '[' {
		return false, s.scalar()
	}
	b := s.text[s.at]
	s.at = skipSpace(s.text, s.at+1)
	if s.at >= len(s.text) || s.text[s.at] != b+2 {
		s.open.push(b == '{')
		return true, nil
	}
	s.at++
	return false, nil
}

// afterValue closes what ends behind a value; false at the end of the text.
func (s *scanner) afterValue() (bool, error) {
	for {
		s.at = skipSpace(s.text, s.at)
		if s.open.depth == 0 {
			if s.at < len(s.text) {
				return false, fail("the end was expected", s.at)
			}
			return false, nil
		}
		if s.at >= len(s.text) {
			return false, fail("a comma or a closing bracket was expected", s.at)
		}
		b := s.text[s.at]
		switch {
		case b == ',':
			s.at++
			return true, nil
		case b == '}' && s.open.inObject(), b == ']' && !s.open.inObject():
			s.open.pop()
			s.at++
		default:
			return false, fail("a comma or a closing bracket was expected", s.at)
		}
	}
}

// escapeLen gives the length of the escape that b begins with; 0 where it is none.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex(b[2:]); ok {
			return 6
		}
	}
	return 0
}

// scalar reads true, false, null or a number.
func (s *scanner) scalar() error {
	start := s.at
	if start < len(s.text) {
		switch s.text[start] {
		case 't':
			return s.word("true")
		case 'f':
			return s.word("false")
		case 'n':
			return s.word("null")
		case '-':
			s.at++
		}
	}
	first := s.at
	whole := s.digits()
	if whole == 0 || whole > 1 && s.text[first] == '0' {
		return fail("a value was expected", start)
	}
	return s.fraction()
}

func (s *scanner) word(word string) error {
	rest := s.text[s.at:]
	if len(rest) < len(word) || string(rest[:len(word)]) != word {
		return fail("a value was expected", s.at)
	}
	s.at += len(word)
	return nil
}

// fraction reads what may follow the whole part of a number.
func (s *scanner) fraction() error {
	if s.eat('.', '.') && s.digits() == 0 {
		return fail("a digit was expected", s.at)
	}
	if s.eat('e', 'E') {
		s.eat('+', '-')
		if s.digits() == 0 {
			return fail("a digit was expected", s.at)
		}
	}
	return nil
}

func (s *scanner) digits() int {
	start := s.at
	for s.at < len(s.text) && s.text[s.at]-'0' <= 9 {
		s.at++
	}
	return s.at - start
}

func (s *scanner) eat(a, b byte) bool {
	if s.at < len(s.text) && (s.text[s.at] == a || s.text[s.at] == b) {
		s.at++
		return true
	}
	return false
}

// skipSpace gives the place, from at on, of the first byte that is no white space.
func skipSpace(text []byte, at int) int {
	for at < len(text) && text[at] <= ' ' {
		switch text[at] {
		case ' ', '\n', '\r', '\t':
			at++
		default:
			return at
		}
	}
	return at
}

//go:noinline
func fail(expected string, at int) error {
	return &NotJSON{Expected: expected, At: at}
}
