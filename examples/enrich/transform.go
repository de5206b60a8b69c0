// Enriches orders: what countries.csv says of the order's country is added to it, and its key becomes the customer, so that all orders
// of a customer are in one partition.
package main

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"

	tidemill "tidemill.dev/sdk"
)

//go:embed countries.csv
var table []byte

// country is what is added to an order, ready to be put into it.
type country struct {
	name, currency json.RawMessage
}

var countries = map[string]country{}

func init() {
	// A table that cannot be read ends the module as it starts: it does not get past the deployment.
	rows, err := csv.NewReader(bytes.NewReader(table)).ReadAll()
	if err != nil {
		panic(err)
	}
	for _, row := range rows {
		countries[row[0]] = country{name: quoted(row[1]), currency: quoted(row[2])}
	}
	tidemill.Register(enrich)
}

func quoted(text string) json.RawMessage {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return quoted
}

// enrich adds to one order. What is not an order, or comes from a country that is not in the table, is refused.
func enrich(record tidemill.Record, output *tidemill.Output) error {
	var order struct {
		Customer string `json:"customer"`
		Country  string `json:"country"`
	}
	// All members as they were written: numbers keep every digit.
	var members map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(record.Value(), &order), json.Unmarshal(record.Value(), &members)); err != nil {
		return fmt.Errorf("not an order: %w", err)
	}
	if order.Customer == "" {
		return errors.New("the order has no customer")
	}
	country, ok := countries[order.Country]
	if !ok {
		return fmt.Errorf("country %q is not in the table", order.Country)
	}
	members["country_name"], members["currency"] = country.name, country.currency
	value, err := json.Marshal(members)
	if err != nil {
		return err
	}
	enriched := record.Edit().SetKey([]byte(order.Customer)).SetValue(value)
	return output.Write(enriched.AddHeader("enriched-with", []byte("countries.csv")))
}

func main() {}
