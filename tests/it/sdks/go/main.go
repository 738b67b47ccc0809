// `analytics-go`, as the scripts beside it (see sending.js): send URL KEY.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"github.com/segmentio/analytics-go/v3"
)

const user = "analytics-go"

// Counts the messages that are on their way.
type waiting struct{ sync.WaitGroup }

func (w *waiting) Success(analytics.Message) { w.Done() }

func (w *waiting) Failure(_ analytics.Message, err error) { log.Fatal(err) }

func main() {
	enough := make(chan struct{})
	go func() {
		os.Stdin.Read(make([]byte, 1))
		close(enough)
	}()
	var waiting waiting
	client, err := analytics.NewWithConfig(os.Args[2], analytics.Config{
		Endpoint: os.Args[1],
		Interval: 50 * time.Millisecond,
		Callback: &waiting,
		Logger:   analytics.StdLogger(log.New(io.Discard, "", 0)),
	})
	check(err)
	send := func(message analytics.Message) {
		waiting.Add(1)
		check(client.Enqueue(message))
	}
	send(analytics.Identify{UserId: user, AnonymousId: "a", Traits: analytics.NewTraits().SetEmail("é@example.com")})
	order := analytics.NewProperties().SetOrderId("o").SetTotal(9.99)
	send(analytics.Track{UserId: user, Event: "Order Completed", Properties: order})
	send(analytics.Page{UserId: user, Name: "Intro", Properties: analytics.NewProperties().SetPath("/docs")})
	send(analytics.Screen{UserId: user, Name: "Home"})
	send(analytics.Group{UserId: user, GroupId: "g", Traits: analytics.NewTraits().SetName("Acme")})
	send(analytics.Alias{UserId: user, PreviousId: "old"})
	fmt.Println("ready")
	count := 0
	for more := true; more; count++ {
		send(analytics.Track{UserId: user, Event: "Counted", Properties: analytics.NewProperties().Set("number", count)})
		select {
		case <-enough:
			more = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	// Closing would give up what is to be sent again.
	waiting.Wait()
	check(client.Close())
	fmt.Println(count)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
