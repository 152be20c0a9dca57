package process

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
)

// maxRecord bounds a record on disk in bytes.
const maxRecord = 8 << 20

// newID is 256 random bits, as the ids of other runtimes are.
func newID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

func validID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 32
}

// writeRecord replaces a file so that it is there whole or not at all, even after a power cut.
func writeRecord(path string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := diskfile.Replace(path, data, true); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func readRecord(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}
