// Package clip bounds text from outside before it is kept or shown.
package clip

import "strings"

// String returns the beginning of s, at most n bytes of it, without what is not UTF-8.
func String(s string, n int) string {
	if len(s) > n {
		s = strings.Clone(s[:n]) // the rest would stay in memory
	}
	return strings.ToValidUTF8(s, "")
}
