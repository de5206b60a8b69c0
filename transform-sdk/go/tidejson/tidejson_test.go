package tidejson

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func found(t *testing.T, text, name string) []string {
	t.Helper()
	spans, err := Strings([]byte(text), name)
	if err != nil {
		t.Fatalf("%.60s: %v", text, err)
	}
	var strings []string
	for _, s := range spans {
		strings = append(strings, text[s.Start:s.End])
	}
	return strings
}

func TestValidTextsAreAccepted(t *testing.T) {
	for _, text := range []string{
		"0", "-0", "-1.5e+10", "1E9", "true", " null ", `""`, "[]", "{}", "[ ]", "{ }", "\r\n\t [1 , 2]\n",
		`[1,2,[3],{"a":[]}]`, `"\"\\\/\b\f\n\r\t\u00e9"`, `{"a":{"b":{}},"c":[{}]}`, `"ünï😀"`, `{"x":1,"":{"x":"y"}}`,
		strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000),
		strings.Repeat(`{"x":[`, 100) + strings.Repeat("]}", 100),
	} {
		if got := found(t, text, "x"); len(got) > 0 {
			t.Errorf("%.60s has %q", text, got)
		}
	}
}

func TestOtherTextsAreRefused(t *testing.T) {
	for _, text := range []string{
		"", " ", "nul", "01", "-", "1.", ".5", "1e", "+1", "[", "]", "[1", "[1,]", "[,1]", "{", "{]", `{"a"}`, `{"a":}`, `{"a":1,}`,
		"{a:1}", "[1 2]", "1 2", "{}{}", `"`, `"\x"`, `"\u12g4"`, "\"a\nb\"", "\"0123456\x0189\"", "[}", `{"a":1]`, "true1",
		"email=ada@example.com", "1,2", "\x00", "\"abcdefgh\x00\"", "[\x00]", `"\`, `"\u`, `"\u00e`, `"abcdefg`, `"abcdefgh`, "\xff", "\"\xff\"",
		"\"plain and long \xc3(\"", "{\"a\":\"\xed\xa0\x80\"}",
	} {
		_, err := Strings([]byte(text), "x")
		var not *NotJSON
		if !errors.As(err, &not) || not.At < 0 || not.At > len(text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestErrorSaysWhatWasExpectedWhere(t *testing.T) {
	for text, want := range map[string]string{
		`{"email": }`:        "not JSON: a value was expected at byte 10",
		"{\"a\":\"b\xffc\"}": "not JSON: UTF-8 was expected at byte 7",
		"[1\xff":             "not JSON: UTF-8 was expected at byte 2",
		`{"a" 1}`:            "not JSON: a colon was expected at byte 5",
		`[1`:                 "not JSON: a comma or a closing bracket was expected at byte 2",
		`{"a":"b`:            "not JSON: a closing quote was expected at byte 7",
		`{} 1`:               "not JSON: the end was expected at byte 3",
		`{1:2}`:              "not JSON: a member's name was expected at byte 1",
		`-x`:                 "not JSON: a value was expected at byte 0",
		`1.x`:                "not JSON: a digit was expected at byte 2",
	} {
		if _, err := Strings([]byte(text), "x"); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestOnlyMembersOfTheOutermostObjectAreFound(t *testing.T) {
	text := `{"a":{"x":"no"},"x":"one","b":["x",{"x":"no"}],"x":5,"x":null,"x":["no"],"x":{"x":"no"},"x":"two","y":"x"}`
	if got := found(t, text, "x"); !reflect.DeepEqual(got, []string{"one", "two"}) {
		t.Errorf("%q", got)
	}
	if got := found(t, `[{"x":"no"},"x"]`, "x"); got != nil {
		t.Errorf("%q", got)
	}
}

func TestNameIsComparedByMeaning(t *testing.T) {
	text := `{"\ud83d\ude00":"a","😀":"b","\ud83d":"c","x":"d","\u0078":"e","xx":"f","\u0078x":"g","\\u0078":"h","\/\b\f\n\r\t\"":"i","�":"j"}`
	for name, want := range map[string][]string{
		"😀": {"a", "b"}, "x": {"d", "e"}, "xx": {"f", "g"}, `\u0078`: {"h"}, "/\b\f\n\r\t\"": {"i"}, "\ufffd": {"j"}, "\xff": nil, "": nil,
	} {
		if got := found(t, text, name); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q", name, got)
		}
	}
}

func TestStringEndsAreFoundAtEveryDistance(t *testing.T) {
	for n := range 40 {
		a, b := strings.Repeat("a", n), strings.Repeat("b", n)
		text := `{"x":"` + a + "\",\"y\":\"\x7fÿ" + b + `\"","z":"` + a + `"}`
		if got := found(t, text, "x"); got[0] != a {
			t.Errorf("%q", got)
		}
		if got := found(t, text, "y"); len(got[0]) != n+5 {
			t.Errorf("%q", got)
		}
		if got := found(t, text, "z"); got[0] != a {
			t.Errorf("%q", got)
		}
	}
}

func TestEverySpecialByteIsSeenAtEveryPlace(t *testing.T) {
	for at := range 8 {
		for b := range 256 {
			word := bytes.Repeat([]byte("a"), 8)
			word[at] = byte(b)
			want := 8
			if b < 0x20 || b == '"' || b == '\\' {
				want = at
			}
			if got := trailing(word); got != want {
				t.Errorf("%d at %d was seen at %d", b, at, got)
			}
		}
	}
}

func TestWholeNumbersBeforeACommaAreCounted(t *testing.T) {
	for text, want := range map[string]int{
		"1,234567": 1, "0,\"aaaaa": 1, "1234567,": 7, "12345678": 0, "01,aaaaa": 0, "00,aaaaa": 0, "-1,aaaaa": 0, ",1234567": 0, "12.5,aaa": 0,
		"12}aaaaa": 0, "1/,aaaaa": 0, "1:,aaaaa": 0, "9\xff,aaaaa": 0, "99,\xff\xff\xff\xff\xff": 2,
	} {
		if got := digitsBefore(binary.LittleEndian.Uint64([]byte(text))); got != want {
			t.Errorf("%q: %d, not %d", text, got, want)
		}
	}
}

func TestStrictlyNothingThatWasLookedForPassesBy(t *testing.T) {
	long := `"long":"` + strings.Repeat("x", smallBytes) + `"`
	for text, want := range map[string]string{
		`{"e":["a@b"]}`:                    "a string or null was expected at byte 5",
		`{"e":{"e":"a@b"}}`:                "a string or null was expected at byte 5",
		`{"e":[]}`:                         "a string or null was expected at byte 5",
		`{"x":1, "\u0065" : 5,"y":2}`:      "a string or null was expected at byte 19",
		`{"e":-1.5}`:                       "a string or null was expected at byte 5",
		`{"e":true}`:                       "a string or null was expected at byte 5",
		`{"e":"a","e":false}`:              "a string or null was expected at byte 13",
		`{"e":17,"x":"a",` + long + `}`:    "a string or null was expected at byte 5",
		`{"e":[17],"x":1,` + long + `}`:    "a string or null was expected at byte 5",
		" [{\"e\":\"a@b\"}]":               "an object was expected at byte 1",
		` "a@b"`:                           "an object was expected at byte 1",
		" null":                            "an object was expected at byte 1",
		`[{"e":"a@b"},{` + long + `}]`:     "an object was expected at byte 0",
		`{"e": }`:                          "not JSON: a value was expected at byte 6",
		"":                                 "not JSON: a value was expected at byte 0",
		" {\"e\":null,\"x\":{\"e\":[1]}} ": "",
		`{"e":"a","n":5,"e":"b"}`:          "",
		`{"e":"a","n":5,` + long + `}`:     "",
	} {
		_, err := AppendStringsStrictly(nil, []byte(text), "e")
		if got := errorText(err); got != want {
			t.Errorf("%.40s: %q, want %q", text, got, want)
		}
	}
	found, err := AppendStringsStrictly(nil, []byte(`{"e":"a","n":5,"e":"b"}`), "e")
	if err != nil || len(found) != 2 || found[1] != (Span{20, 21}) {
		t.Error(found, err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestFindingCostsNoAllocation(t *testing.T) {
	for _, text := range []string{
		`{"id":5,"email":"a","country":"DE"}`,
		`{"id":5,"email":"a","long":"` + strings.Repeat("x", smallBytes) + `","email":"b"}`,
	} {
		bytes, room := []byte(text), make([]Span, 0, 2)
		if n := testing.AllocsPerRun(10, func() { AppendStrings(room, bytes, "email") }); n > 0 {
			t.Errorf("%.50s: %v allocations", text, n)
		}
		if n := testing.AllocsPerRun(10, func() { AppendStringsStrictly(room, bytes, "email") }); n > 0 {
			t.Errorf("%.50s: %v allocations", text, n)
		}
	}
}

func trailing(word []byte) int {
	marked := special(lastWord(append([]byte{'"'}, word...), 1)) // short of a full word: behind a quote
	for at := range 8 {
		if marked>>(8*at)&0xff != 0 {
			return at
		}
	}
	return 8
}

// TestWhatIsJSONIsWhatTheStandardLibraryTakesForIt mutates texts at random.
func TestWhatIsJSONIsWhatTheStandardLibraryTakesForIt(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	seeds := []string{
		`{"x":"one","y":[1,2.5e-3,{"x":"\u00e9\n"}],"x":"two","long name of a member":"a long value, with \"escapes\" in it"}`,
		`{"id":17,"x":"one","name":"Ada","0":0,"x":"two","a":"b","c":12345678,"d":-1,"x":"three","e":1.5,"x":"four"}`,
		`[true,false,null,-0.1,"ä",{"a":{}}]`,
		`{"ü":"😀","x" : "\\" , "e":""}`,
	}
	breaking := "\"\\{}[],:0 1ex\x00\xffu"
	valid := 0
	for range 200_000 {
		text := []byte(seeds[random.IntN(len(seeds))])
		for range random.IntN(3) {
			at := random.IntN(len(text))
			switch random.IntN(3) {
			case 0:
				text[at] = breaking[random.IntN(len(breaking))]
			case 1:
				text = append(text[:at:at], text[at+1:]...)
			default:
				text = append(text[:at:at], text[random.IntN(at+1):]...)
			}
			if len(text) == 0 {
				text = []byte("0")
			}
		}
		want := json.Valid(text) && utf8.Valid(text)
		spans, err := Strings(text, "x")
		if (err == nil) != want {
			t.Fatalf("%q: %v", text, err)
		}
		if want {
			valid++
			checkLast(t, text, spans)
		}
	}
	if valid < 10_000 {
		t.Errorf("only %d texts were valid", valid)
	}
}

// checkLast compares the last string found with the one the standard library keeps of members of the same name.
func checkLast(t *testing.T, text []byte, spans []Span) {
	t.Helper()
	var object map[string]any
	if json.Unmarshal(text, &object) != nil {
		return
	}
	want, ok := object["x"].(string)
	if !ok {
		return
	}
	var got string
	last := spans[len(spans)-1]
	if err := json.Unmarshal(text[last.Start-1:last.End+1], &got); err != nil || got != want {
		t.Fatalf("%q: %q, not %q", text, got, want)
	}
}
