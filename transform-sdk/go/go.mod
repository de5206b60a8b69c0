module tidemill.dev/sdk

go 1.24
