package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Hash is the SHA-256, in hex, of what a Config says: two documents that differ in comments, order of fields or spelled
// out defaults have the same. It covers the names of files and not what is in them, so that it can be shown.
func Hash(c *Config) string {
	h := sha256.New()
	// The encoder orders the fields as the types do, and the keys of maps by name. It fails for types only that no
	// document has.
	if err := yaml.NewEncoder(h).Encode(c); err != nil {
		panic(fmt.Sprintf("encode config: %v", err))
	}
	// Inline keys are hidden from the encoder; a new key is a new config all the same.
	for _, pair := range c.Certs.KeyPairs {
		key := sha256.Sum256([]byte(pair.Key))
		h.Write(key[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}
