package tidemill

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestLastByteIsFoundWhereTheStandardLibraryFindsIt(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 100_000 {
		text := make([]byte, random.IntN(40))
		for i := range text {
			text[i] = []byte{'@', '@' ^ 1, '@' ^ 0x80, 0, 0xff, 'a', '?', 'A'}[random.IntN(8)]
		}
		for _, b := range []byte{'@', 0, 0xff, 'z'} {
			if got, want := FindLast(text, b), bytes.LastIndexByte(text, b); got != want {
				t.Fatalf("%q in %q: %d, not %d", b, text, got, want)
			}
		}
	}
}
