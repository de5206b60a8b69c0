package main

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	groupTopic      = "go-group"
	groupPartitions = 6
)

// member is one consumer of the group, polled by a goroutine of its own.
type member struct {
	client *kgo.Client
	ended  chan struct{}
}

type group struct {
	kafka   string
	lock    sync.Mutex
	seen    map[string]bool
	members []*member
	records int
}

// groups: three members share the work, one leaves, offsets are committed, the next goes on from there.
func groups(ctx context.Context, kafka string) {
	admin := kadm.NewClient(client(kafka))
	defer admin.Close()
	_, err := admin.CreateTopic(ctx, groupPartitions, 1, nil, groupTopic)
	check(err)
	g := &group{kafka: kafka, seen: map[string]bool{}}
	g.produce(ctx, 600)
	for range 3 {
		g.join(ctx)
	}
	g.until(ctx, "three share the work", func() bool { return g.shares(admin, 3) && g.count() == 600 })
	g.leave()
	g.produce(ctx, 600)
	g.until(ctx, "two take over what the third had", func() bool { return g.shares(admin, 2) && g.count() == 1200 })
	for len(g.members) > 0 {
		g.leave()
	}
	g.seen = map[string]bool{}
	g.produce(ctx, 60)
	g.join(ctx)
	g.until(ctx, "the next goes on where they stood", func() bool { return g.count() >= 60 })
	if g.count() != 60 {
		fail("records were read again: %d", g.count())
	}
	g.leave()
	committed, err := admin.FetchOffsets(ctx, "go")
	check(err)
	total := int64(0)
	committed.Each(func(o kadm.OffsetResponse) { total += o.At })
	if total != 1260 {
		fail("committed %v", committed)
	}
}

func (g *group) join(ctx context.Context) {
	m := &member{ended: make(chan struct{})}
	m.client = client(g.kafka, kgo.ConsumerGroup("go"), kgo.ConsumeTopics(groupTopic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.BlockRebalanceOnPoll(),
		kgo.HeartbeatInterval(500*time.Millisecond))
	g.members = append(g.members, m)
	go func() {
		defer close(m.ended)
		for {
			fetches := m.client.PollFetches(ctx)
			if fetches.IsClientClosed() {
				return
			}
			g.lock.Lock()
			fetches.EachRecord(func(r *kgo.Record) { g.seen[string(r.Key)] = true })
			g.lock.Unlock()
			check(m.client.CommitUncommittedOffsets(ctx))
			m.client.AllowRebalance()
		}
	}()
}

func (g *group) leave() {
	last := len(g.members) - 1
	m := g.members[last]
	g.members = g.members[:last]
	m.client.CloseAllowingRebalance()
	<-m.ended
}

func (g *group) produce(ctx context.Context, count int) {
	cl := client(g.kafka, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	all := make([]*kgo.Record, count)
	for i := range all {
		n := g.records + i
		all[i] = &kgo.Record{Topic: groupTopic, Partition: int32(n % groupPartitions), Key: []byte(strconv.Itoa(n))}
	}
	g.records += count
	check(cl.ProduceSync(ctx, all...).FirstErr())
}

func (g *group) count() int {
	g.lock.Lock()
	defer g.lock.Unlock()
	return len(g.seen)
}

// shares says whether the group is stable, and so many members have the same number of partitions.
func (g *group) shares(admin *kadm.Client, members int) bool {
	described, err := admin.DescribeGroups(context.Background(), "go")
	check(err)
	d := described["go"]
	if d.State != "Stable" || len(d.Members) != members {
		return false
	}
	for _, m := range d.Members {
		assigned, ok := m.Assigned.AsConsumer()
		if !ok || len(assigned.Topics) != 1 || len(assigned.Topics[0].Partitions) != groupPartitions/members {
			return false
		}
	}
	return true
}

func (g *group) until(ctx context.Context, what string, holds func() bool) {
	for deadline := time.Now().Add(60 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			fail("%s: %d records seen", what, g.count())
		}
	}
}
