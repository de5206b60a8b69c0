package main

import (
	"reflect"
	"strings"
	"testing"

	tidemill "tidemill.dev/sdk"
	"tidemill.dev/sdk/tidetest"
)

func TestOrderIsEnrichedAndGoesByItsCustomer(t *testing.T) {
	got := tidetest.Run(t, enrich, tidetest.Record{
		Key:       []byte("1001"),
		Value:     []byte(`{"id":1001,"customer":"c-17","country":"CH","total":10000000000000000.01}`),
		Headers:   []tidemill.Header{{Key: "trace", Value: []byte("a1")}},
		Timestamp: 1700000000000,
	}).Records()
	want := []tidetest.Record{{
		Key:   []byte("c-17"),
		Value: []byte(`{"country":"CH","country_name":"Switzerland","currency":"CHF","customer":"c-17","id":1001,"total":10000000000000000.01}`),
		Headers: []tidemill.Header{
			{Key: "trace", Value: []byte("a1")},
			{Key: "enriched-with", Value: []byte("countries.csv")},
		},
		Timestamp: 1700000000000,
		Placement: tidetest.ByKey,
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhatIsNoOrderIsRefusedAndTheOthersGoOn(t *testing.T) {
	refused := map[string]string{
		"":                                  "not an order",
		"[1]":                               "not an order",
		"null":                              "no customer",
		"hello":                             "not an order",
		`{"customer":"c-1","country":"XX"}`: `"XX"`,
		`{"customer":5,"country":"DE"}`:     "not an order",
		`{"country":"DE"}`:                  "no customer",
	}
	good := tidetest.Record{Value: []byte(`{"customer":"c-1","country":"DE"}`)}
	for value, want := range refused {
		ran := tidetest.Run(t, enrich, good, tidetest.Record{Value: []byte(value)}, good)
		if len(ran.Records()) != 2 || len(ran.Failures()) != 1 || ran.Failures()[0].Offset != 1 {
			t.Fatalf("%q: %v, %v", value, ran.Records(), ran.Failures())
		}
		if got := ran.Failures()[0].Message; !strings.Contains(got, want) {
			t.Errorf("%q: %s", value, got)
		}
	}
}
