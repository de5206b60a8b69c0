package main

import (
	"reflect"
	"strings"
	"testing"

	tidemill "tidemill.dev/sdk"
	"tidemill.dev/sdk/tidetest"
)

func masked(t *testing.T, value string) string {
	t.Helper()
	ran := tidetest.Run(t, maskEmail, tidetest.Record{Value: []byte(value)})
	if len(ran.Failures()) > 0 {
		t.Fatalf("%s: %v", value, ran.Failures())
	}
	return string(ran.Records()[0].Value)
}

func TestEmailIsMaskedAndTheRestKept(t *testing.T) {
	record := tidetest.Record{
		Key:       []byte("17"),
		Value:     []byte(`{"id": 17, "email": "ada@example.com", "country": "GB"}`),
		Headers:   []tidemill.Header{{Key: "trace", Value: []byte("1")}},
		Timestamp: 1700000000000,
	}
	want := record
	want.Value = []byte(`{"id": 17, "email": "***@example.com", "country": "GB"}`)
	got := tidetest.Run(t, maskEmail, record).Records()
	if !reflect.DeepEqual(got, []tidetest.Record{want}) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOnlyTheOutermostEmailIsMaskedHoweverJSONMayWriteIt(t *testing.T) {
	for value, want := range map[string]string{
		`{"email":"a@example.com"}`:                                  `{"email":"***@example.com"}`,
		`{"id":1,"email":"a1@example.com","country":"DE"}`:           `{"id":1,"email":"***@example.com","country":"DE"}`,
		`{"user":{"email":"a@b.c"},"list":["email"],"t":"email"}`:    `{"user":{"email":"a@b.c"},"list":["email"],"t":"email"}`,
		" {\n\t\"email\" :\r \"a@b.c\" } ":                           " {\n\t\"email\" :\r \"***@b.c\" } ",
		`{"\u0065m\u0061il":"a@b.c"}`:                                `{"\u0065m\u0061il":"***@b.c"}`,
		`{"email":"\"a\\@x\"@b.c"}`:                                  `{"email":"***@b.c"}`,
		`{"email":"a\u0040b.c"}`:                                     `{"email":"***"}`,
		`{"email":"a@b","x":1,"email":"c@d","email":"e","email":""}`: `{"email":"***@b","x":1,"email":"***@d","email":"***","email":"***"}`,
		`{"email":null,"e":"email"}`:                                 `{"email":null,"e":"email"}`,
	} {
		if got := masked(t, value); got != want {
			t.Errorf("%s became %s, want %s", value, got, want)
		}
	}
}

func TestWhatMayHoldAnEmailThatIsNotMaskedIsRefusedWithoutTellingIt(t *testing.T) {
	for _, value := range []string{
		`{"email":["ada@example.com"]}`,
		`{"email":{"address":"ada@example.com"}}`,
		`{"id":1,"email":5,"country":"GB","text":"long enough for the window that is looked at in one go"}`,
		`{"email":"a@b.c","email":["ada@example.com"]}`,
		`[{"email":"ada@example.com"}]`,
		`"ada@example.com"`,
	} {
		ran := tidetest.Run(t, maskEmail, tidetest.Record{Value: []byte(value)})
		if len(ran.Records()) > 0 || len(ran.Failures()) != 1 || strings.Contains(ran.Failures()[0].Message, "ada") {
			t.Errorf("%s: got %v, %v", value, ran.Records(), ran.Failures())
		}
	}
}

func TestRecordWithoutValueIsHandedOn(t *testing.T) {
	got := tidetest.Run(t, maskEmail, tidetest.Record{Key: []byte("k")}).Records()
	if len(got) != 1 || got[0].Value != nil || string(got[0].Key) != "k" {
		t.Errorf("got %v", got)
	}
}

func TestValueThatIsNotJSONIsRefusedWithThePlace(t *testing.T) {
	ran := tidetest.Run(t, maskEmail, tidetest.Record{Value: []byte(`{"email": }`)})
	want := []tidetest.Failure{{Offset: 0, Message: "not JSON: a value was expected at byte 10"}}
	if !reflect.DeepEqual(ran.Failures(), want) || len(ran.Records()) > 0 {
		t.Errorf("got %v, %v", ran.Failures(), ran.Records())
	}
}
