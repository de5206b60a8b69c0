// Package tidejson finds strings in JSON in place: in the outermost object of a text, in one pass, without building a tree (RFC 8259).
//
//	value := []byte(`{"id":17,"email":"ada@example.com"}`)
//	emails, err := tidejson.Strings(value, "email")
//	// value[emails[0].Start:emails[0].End] is ada@example.com
package tidejson

import (
	"fmt"
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
	if !isASCII(text) && !utf8.Valid(text) {
		return spans, fail("UTF-8 was expected", validUpTo(text))
	}
	s := scanner{text: text}
	return s.document(spans, name)
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
}

// document goes through values without recursion, so that no nesting is too deep.
func (s *scanner) document(spans []Span, name string) ([]Span, error) {
	for {
		wanted := false
		if s.open.inObject() {
			key, err := s.key()
			if err != nil {
				return spans, err
			}
			wanted = s.open.depth == 1 && same(s.text[key.Start:key.End], name)
		}
		switch b := s.next(); b {
		case '"':
			place, err := s.string()
			if err != nil {
				return spans, err
			}
			if wanted {
				spans = append(spans, place)
			}
		case '{', '[':
			s.at++
			if s.next() != b+2 {
				s.open.push(b == '{')
				continue
			}
			s.at++
		default:
			if err := s.scalar(); err != nil {
				return spans, err
			}
		}
		if more, err := s.afterValue(); !more {
			return spans, err
		}
	}
}

// afterValue closes what ends behind a value; false at the end of the text.
func (s *scanner) afterValue() (bool, error) {
	for {
		b := s.next()
		if s.open.depth == 0 {
			if s.at < len(s.text) {
				return false, fail("the end was expected", s.at)
			}
			return false, nil
		}
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

// key reads a member's name and the colon.
func (s *scanner) key() (Span, error) {
	if s.next() != '"' {
		return Span{}, fail("a member's name was expected", s.at)
	}
	key, err := s.string()
	if err != nil {
		return Span{}, err
	}
	if s.next() != ':' {
		return Span{}, fail("a colon was expected", s.at)
	}
	s.at++
	return key, nil
}

// string reads a string, from its quote to behind the other, and gives the place between them.
func (s *scanner) string() (Span, error) {
	start := s.at + 1
	at := start
	for {
		at = special(s.text, at)
		if at == len(s.text) {
			return Span{}, fail("a closing quote was expected", at)
		}
		switch s.text[at] {
		case '"':
			s.at = at + 1
			return Span{start, at}, nil
		case '\\':
			n := escapeLen(s.text[at:])
			if n == 0 {
				return Span{}, fail("an escape was expected", at)
			}
			at += n
		default:
			return Span{}, fail("a control character must be escaped", at)
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
	rest := s.text[s.at:]
	for _, word := range [...]string{"true", "false", "null"} {
		if len(rest) >= len(word) && string(rest[:len(word)]) == word {
			s.at += len(word)
			return nil
		}
	}
	start := s.at
	s.eat('-', '-')
	first := s.at
	whole := s.digits()
	if whole == 0 || whole > 1 && s.text[first] == '0' {
		return fail("a value was expected", start)
	}
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

// next gives the next byte that is not white space, not taken; 0 at the end, which no value begins with.
func (s *scanner) next() byte {
	if s.at < len(s.text) && s.text[s.at] > ' ' {
		return s.text[s.at]
	}
	return s.skipSpace()
}

func (s *scanner) skipSpace() byte {
	for s.at < len(s.text) {
		switch b := s.text[s.at]; b {
		case ' ', '\n', '\r', '\t':
			s.at++
		default:
			return b
		}
	}
	return 0
}

//go:noinline
func fail(expected string, at int) error {
	return &NotJSON{Expected: expected, At: at}
}
