// Adds two documents, asks a question, shows what it was answered from, deletes them. README.md says
// how to build it. The server is MSA_SERVER, or 127.0.0.1:7070.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"

	pb "msa/v1"
)

func add(ctx context.Context, memory pb.MemoryServiceClient) error {
	stream, err := memory.AddDocuments(ctx)
	if err != nil {
		return err
	}
	texts := [][2]string{{"tower", "The Mira tower is 412 m high."}, {"bridge", "The Orlan bridge opened in 1931."}}
	for _, t := range texts { // two fit on their way; read replies meanwhile to send many
		document := &pb.Document{Id: []byte(t[0]), Text: []byte(t[1])}
		if err := stream.Send(&pb.AddDocumentsRequest{Document: document}); err != nil {
			break // Recv says why
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		reply, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if reply.Status != nil {
			fmt.Printf("%s refused: %s\n", reply.Id, reply.Status.Message)
		} else {
			fmt.Printf("%s: revision %d\n", reply.Id, reply.Result.Revision)
		}
	}
}

func ask(ctx context.Context, memory pb.MemoryServiceClient, question string) error {
	events, err := memory.Generate(ctx, &pb.GenerateRequest{Question: []byte(question)})
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if text := event.GetText(); text != nil && !text.Retrieval {
			fmt.Print(text.Text)
		}
		if done := event.GetDone(); done != nil {
			fmt.Printf("\n%s, from:", done.FinishReason)
			for _, document := range done.Documents {
				fmt.Printf(" %s", document.DocumentId)
			}
			fmt.Println()
		}
	}
}

func main() {
	log.SetFlags(0)
	server := os.Getenv("MSA_SERVER")
	if server == "" {
		server = "127.0.0.1:7070"
	}
	limit := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20))
	connection, err := grpc.Dial(server, grpc.WithInsecure(), limit)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	memory := pb.NewMemoryServiceClient(connection)
	if err := add(ctx, memory); err != nil {
		log.Fatal(err)
	}
	if err := ask(ctx, memory, "How high is the Mira tower?"); err != nil {
		log.Fatal(err)
	}
	ids := [][]byte{[]byte("tower"), []byte("bridge")}
	deleted, err := memory.DeleteDocuments(ctx, &pb.DeleteDocumentsRequest{Ids: ids})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("deleted", len(deleted.Results))
}
