// franz-go against a broker: every compression out and back with equal bytes, topics listed and described.
//
// usage: clients HOST:PORT [groups]
package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const records = 1000

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	kafka := os.Args[1]
	if len(os.Args) > 2 {
		groups(ctx, kafka)
		fmt.Println("ok")
		return
	}
	codecs := []struct {
		name  string
		codec kgo.CompressionCodec
	}{
		{"none", kgo.NoCompression()},
		{"gzip", kgo.GzipCompression()},
		{"snappy", kgo.SnappyCompression()},
		{"lz4", kgo.Lz4Compression()},
		{"zstd", kgo.ZstdCompression()},
	}
	for _, c := range codecs {
		topic := "go-" + c.name
		createTopic(ctx, kafka, topic)
		produce(ctx, kafka, topic, c.codec)
		consume(ctx, kafka, topic)
	}
	describe(ctx, kafka)
	fmt.Println("ok")
}

func value(i int) []byte {
	value := make([]byte, 20+i%300)
	rand.New(rand.NewSource(int64(i))).Read(value)
	// Half of it compresses.
	copy(value, bytes.Repeat([]byte("x"), len(value)/2))
	return value
}

func client(kafka string, options ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(kafka))...)
	check(err)
	return client
}

func createTopic(ctx context.Context, kafka, topic string) {
	admin := kadm.NewClient(client(kafka))
	defer admin.Close()
	_, err := admin.CreateTopic(ctx, 3, 1, nil, topic)
	check(err)
}

func produce(ctx context.Context, kafka, topic string, codec kgo.CompressionCodec) {
	cl := client(kafka, kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(10*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	all := make([]*kgo.Record, records)
	for i := range all {
		key := []byte(strconv.Itoa(i))
		all[i] = &kgo.Record{Topic: topic, Partition: int32(i % 3), Key: key, Value: value(i),
			Headers: []kgo.RecordHeader{{Key: "n", Value: key}}}
	}
	check(cl.ProduceSync(ctx, all...).FirstErr())
}

func consume(ctx context.Context, kafka, topic string) {
	cl := client(kafka, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	var next [3]int
	for seen := 0; seen < records; {
		fetches := cl.PollFetches(ctx)
		check(fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			i := int(r.Partition) + 3*next[r.Partition]
			if string(r.Key) != strconv.Itoa(i) || !bytes.Equal(r.Value, value(i)) ||
				!bytes.Equal(r.Headers[0].Value, r.Key) || r.Offset != int64(next[r.Partition]) {
				fail("%s: record %d changed: key %s, offset %d", topic, i, r.Key, r.Offset)
			}
			next[r.Partition]++
			seen++
		})
	}
}

func describe(ctx context.Context, kafka string) {
	admin := kadm.NewClient(client(kafka))
	defer admin.Close()
	topics, err := admin.ListTopics(ctx)
	check(err)
	if len(topics["go-zstd"].Partitions) != 3 {
		fail("listed %v", topics.Names())
	}
	_, err = admin.UpdatePartitions(ctx, 6, "go-zstd")
	check(err)
	ends, err := admin.ListEndOffsets(ctx, "go-zstd")
	check(err)
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	if total != records || len(ends["go-zstd"]) != 6 {
		fail("end offsets %v", ends)
	}
	altered, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms",
		Value: kadm.StringPtr("77000")}}, "go-zstd")
	check(err)
	check(altered[0].Err)
	configs, err := admin.DescribeTopicConfigs(ctx, "go-zstd")
	check(err)
	config, err := configs.On("go-zstd", nil)
	check(err)
	for _, c := range config.Configs {
		if c.Key == "retention.ms" && c.MaybeValue() != "77000" {
			fail("config %v", c)
		}
	}
	dirs, err := admin.DescribeAllLogDirs(ctx, nil)
	check(err)
	if dirs[1].Error() != nil || len(dirs) != 1 {
		fail("log dirs %v", dirs)
	}
	metadata, err := admin.BrokerMetadata(ctx)
	check(err)
	if len(metadata.Brokers) != 1 || metadata.Cluster == "" {
		fail("brokers %v", metadata)
	}
	deleted, err := admin.DeleteTopics(ctx, "go-none")
	check(err)
	check(deleted.Error())
}

func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}
