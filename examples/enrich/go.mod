module enrich

go 1.24

require tidemill.dev/sdk v0.0.0

replace tidemill.dev/sdk => ../../transform-sdk/go
