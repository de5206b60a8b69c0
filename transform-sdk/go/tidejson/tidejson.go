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
	s := scanner{text: text, odd: -1}
	return s.strings(spans, name)
}

// Unfit is the error of [AppendStringsStrictly] for JSON that it refuses. It says the place, never what is there.
type Unfit struct {
	// Expected says what was expected.
	Expected string
	// At is where, in bytes.
	At int
}

func (u *Unfit) Error() string {
	return fmt.Sprintf("%s was expected at byte %d", u.Expected, u.At)
}

// AppendStringsStrictly is AppendStrings for what must not pass by: a text that is no object is refused, and so is a member called name
// that is neither a string nor null, for it may hold what was looked for. The error is a [*NotJSON] or an [*Unfit].
func AppendStringsStrictly(spans []Span, text []byte, name string) ([]Span, error) {
	s := scanner{text: text, odd: -1}
	found, err := s.strings(spans, name)
	if err != nil {
		return found, err
	}
	if s.odd >= 0 {
		return nil, &Unfit{Expected: "a string or null", At: s.odd}
	}
	if at := skipSpace(text, 0); text[at] != '{' {
		return nil, &Unfit{Expected: "an object", At: at}
	}
	return found, nil
}

func (s *scanner) strings(spans []Span, name string) ([]Span, error) {
	if len(s.text) <= smallBytes {
		return s.small(spans, name)
	}
	found, err := s.document(spans, name, s.text)
	return s.checked(found, err)
}

// checked looks at the text as UTF-8, where that is not known.
func (s *scanner) checked(found []Span, err error) ([]Span, error) {
	if (err != nil || s.seen&high != 0) && !utf8.Valid(s.text) {
		return nil, fail("UTF-8 was expected", validUpTo(s.text))
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
	open open
	// seen has the highest bit of a byte set where one beyond ASCII was met.
	seen uint64
	// odd is where a value begins that was wanted but is neither a string nor null, the last of them; -1 while there is none.
	odd int
}

// document goes through values without recursion, so that no nesting is too deep. What is met most often, members does. padded is the
// text, with memberWindow zeros behind it if that was cheap.
func (s *scanner) document(spans []Span, name string, padded []byte) ([]Span, error) {
	text, at, now := s.text, 0, atValue
	for {
		if at < len(text) && text[at] <= ' ' {
			at = skipSpace(text, at)
		}
		if now == atName && at < len(text) && text[at] == '"' {
			if spans, at, now = s.members(spans, at, name, padded); now == atValue || now == atWanted {
				continue
			}
		}
		var err error
		switch {
		case now == afterValue:
		case now == atName:
			if at, now, err = s.name(at, name); err != nil {
				return spans, err
			}
			continue
		case at < len(text) && text[at] == '"':
			var found Span
			if found, _, err = s.string(at); err != nil {
				return spans, err
			}
			if at = found.End + 1; now == atWanted {
				spans = append(spans, found)
			}
		default:
			begin, wanted := at, now == atWanted
			if at, now, err = s.otherValue(at); err != nil {
				return spans, err
			}
			if wanted && text[begin] != 'n' {
				s.odd = begin
			}
			if now != afterValue {
				continue
			}
		}
		more := false
		if at, more, err = s.afterValue(at); !more {
			return spans, err
		}
		now = atValue
		if s.open.inObject() {
			now = atName
		}
	}
}

// name reads a member's name and the colon.
func (s *scanner) name(at int, name string) (int, state, error) {
	if at >= len(s.text) || s.text[at] != '"' {
		return 0, 0, fail("a member's name was expected", at)
	}
	found, escaped, err := s.string(at)
	if err != nil {
		return 0, 0, err
	}
	at = skipSpace(s.text, found.End+1)
	if at >= len(s.text) || s.text[at] != ':' {
		return 0, 0, fail("a colon was expected", at)
	}
	if s.open.depth == 1 && is(s.text[found.Start:found.End], name, escaped) {
		return at + 1, atWanted, nil
	}
	return at + 1, atValue, nil
}

// string reads the string whose quote is at at, and gives the place between its quotes; true where it has escapes.
func (s *scanner) string(at int) (Span, bool, error) {
	start, escaped := at+1, false
	at = start
	for {
		at = s.plain(at)
		if at < len(s.text) && s.text[at] == '"' {
			return Span{start, at}, escaped, nil
		}
		next, err := escape(s.text, at)
		if err != nil {
			return Span{}, false, err
		}
		at, escaped = next, true
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

// otherValue reads what is no string, or an opening bracket with something behind it, and gives the place behind.
func (s *scanner) otherValue(at int) (int, state, error) {
	if at >= len(s.text) || s.text[at] != '{' && s.text[at] != '[' {
		at, err := scalar(s.text, at)
		return at, afterValue, err
	}
	b := s.text[at]
	if at++; at < len(s.text) && s.text[at] <= ' ' {
		at = skipSpace(s.text, at)
	}
	switch {
	case at < len(s.text) && s.text[at] == b+2:
		return at + 1, afterValue, nil
	case b == '{':
		s.open.push(true)
		return at, atName, nil
	}
	s.open.push(false)
	return at, atValue, nil
}

// afterValue closes what ends behind a value, and gives the place of the next; false at the end of the text.
func (s *scanner) afterValue(at int) (int, bool, error) {
	for {
		if at < len(s.text) && s.text[at] <= ' ' {
			at = skipSpace(s.text, at)
		}
		if s.open.depth == 0 {
			if at < len(s.text) {
				return at, false, fail("the end was expected", at)
			}
			return at, false, nil
		}
		if at >= len(s.text) {
			return at, false, fail("a comma or a closing bracket was expected", at)
		}
		b := s.text[at]
		switch {
		case b == ',':
			return at + 1, true, nil
		case b == '}' && s.open.inObject(), b == ']' && !s.open.inObject():
			s.open.pop()
			at++
		default:
			return at, false, fail("a comma or a closing bracket was expected", at)
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

// scalar reads true, false, null or a number, and gives the place behind it.
func scalar(text []byte, at int) (int, error) {
	start := at
	if at < len(text) {
		switch text[at] {
		case 't':
			return word(text, at, "true")
		case 'f':
			return word(text, at, "false")
		case 'n':
			return word(text, at, "null")
		case '-':
			at++
		}
	}
	first := at
	for at < len(text) && text[at]-'0' <= 9 {
		at++
	}
	if at == first || at > first+1 && text[first] == '0' {
		return 0, fail("a value was expected", start)
	}
	if at < len(text) && (text[at] == '.' || text[at]|0x20 == 'e') {
		return fraction(text, at)
	}
	return at, nil
}

func word(text []byte, at int, word string) (int, error) {
	if rest := text[at:]; len(rest) < len(word) || string(rest[:len(word)]) != word {
		return 0, fail("a value was expected", at)
	}
	return at + len(word), nil
}

// fraction reads what may follow the whole part of a number.
func fraction(text []byte, at int) (int, error) {
	if text[at] == '.' {
		end := digits(text, at+1)
		if end == at+1 {
			return 0, fail("a digit was expected", end)
		}
		at = end
	}
	if at < len(text) && text[at]|0x20 == 'e' {
		at++
		if at < len(text) && (text[at] == '+' || text[at] == '-') {
			at++
		}
		end := digits(text, at)
		if end == at {
			return 0, fail("a digit was expected", end)
		}
		at = end
	}
	return at, nil
}

// digits gives the place, from at on, of the first byte that is no digit.
func digits(text []byte, at int) int {
	for at < len(text) && text[at]-'0' <= 9 {
		at++
	}
	return at
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
