package tidejson

import (
	"unicode/utf16"
	"unicode/utf8"
)

// is says whether the text of a member's name, with escapes in it or none, means name.
func is(text []byte, name string, escaped bool) bool {
	if escaped {
		return same(text, name)
	}
	return string(text) == name
}

// same says whether the checked text, with escapes, of a member's name means name.
func same(escaped []byte, name string) bool {
	for len(escaped) > 0 {
		meant, size := character(escaped)
		r, n := utf8.DecodeRuneInString(name)
		if n == 0 || meant < 0 || meant != r || r == utf8.RuneError && n == 1 {
			return false
		}
		escaped, name = escaped[size:], name[n:]
	}
	return name == ""
}

// character reads a character that may be escaped, and how many bytes it takes; -1 for an unpaired half of a surrogate pair.
func character(b []byte) (rune, int) {
	if b[0] != '\\' {
		return utf8.DecodeRune(b)
	}
	switch b[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
	default:
		return rune(b[1]), 2
	}
	high, _ := hex(b[2:])
	if !utf16.IsSurrogate(high) {
		return high, 6
	}
	if len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
		low, _ := hex(b[8:])
		if pair := utf16.DecodeRune(high, low); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return -1, 6
}

// hex reads four hexadecimal digits.
func hex(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var value rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		value = value<<4 | rune(c)
	}
	return value, true
}
