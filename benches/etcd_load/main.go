// Etcd under the load of benches/consensus.py: a closed loop of puts or linearizable reads, so many
// at a time over so many connections, through etcd's own client. Prints one line of JSON like that
// of the Warren side: latencies as [upper bound in ns, calls], within one percent.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/bits"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	endpoints   = flag.String("endpoints", "", "addresses, separated by commas; the leader's alone is fastest")
	connections = flag.Int("connections", 16, "connections, shared by the callers")
	callers     = flag.Int("callers", 256, "calls at a time")
	count       = flag.Int64("count", 10000, "calls in all")
	valueBytes  = flag.Int("bytes", 300, "bytes of a value")
	read        = flag.Bool("read", false, "read instead of writing")
)

type result struct {
	Done    int            `json:"done"`
	Seconds float64        `json:"seconds"`
	Refused map[string]int `json:"refused"`
	Buckets [][2]uint64    `json:"buckets"`
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	clients := make([]*clientv3.Client, *connections)
	for i := range clients {
		config := clientv3.Config{Endpoints: strings.Split(*endpoints, ","), DialTimeout: 10 * time.Second}
		client, err := clientv3.New(config)
		if err != nil {
			return fmt.Errorf("connecting to %s: %w", *endpoints, err)
		}
		defer client.Close()
		clients[i] = client
	}
	// The first calls open the connections; they are not counted.
	for _, client := range clients {
		if _, err := client.Put(context.Background(), "warm", "up"); err != nil {
			return fmt.Errorf("first put: %w", err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(load(clients))
}

func load(clients []*clientv3.Client) result {
	var started atomic.Int64
	var wait sync.WaitGroup
	latencies := make([][]uint64, *callers)
	failures := make([]map[string]int, *callers)
	began := time.Now()
	for caller := range latencies {
		wait.Add(1)
		go func() {
			defer wait.Done()
			failures[caller] = map[string]int{}
			client, key := clients[caller%len(clients)], fmt.Sprintf("caller-%d", caller)
			for started.Add(1) <= *count {
				value := fmt.Sprintf("%*d", *valueBytes, len(latencies[caller]))
				begun := time.Now()
				if err := call(client, key, value); err != nil {
					failures[caller][err.Error()]++
					continue
				}
				latencies[caller] = append(latencies[caller], uint64(time.Since(begun)))
			}
		}()
	}
	wait.Wait()
	return summarise(latencies, failures, time.Since(began))
}

func call(client *clientv3.Client, key, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if *read {
		_, err := client.Get(ctx, key)
		return err
	}
	_, err := client.Put(ctx, key, value)
	return err
}

func summarise(latencies [][]uint64, failures []map[string]int, took time.Duration) result {
	done, counts, refused := 0, map[uint64]uint64{}, map[string]int{}
	for caller := range latencies {
		done += len(latencies[caller])
		for _, latency := range latencies[caller] {
			counts[upperBound(latency)]++
		}
		for why, number := range failures[caller] {
			refused[why] += number
		}
	}
	buckets := make([][2]uint64, 0, len(counts))
	for bound, number := range counts {
		buckets = append(buckets, [2]uint64{bound, number})
	}
	sort.Slice(buckets, func(i, j int) bool { return buckets[i][0] < buckets[j][0] })
	return result{Done: done, Seconds: took.Seconds(), Refused: refused, Buckets: buckets}
}

// The largest value that shares the eight leading bits.
func upperBound(valueNs uint64) uint64 {
	shift := max(bits.Len64(valueNs), 8) - 8
	return (valueNs>>shift+1)<<shift - 1
}
