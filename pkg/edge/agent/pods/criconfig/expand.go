package criconfig

import "strings"

// expand replaces $(NAME) by what mapping returns for NAME. "$$" stands for one "$", so that "$$(X)"
// becomes "$(X)". A "$" before anything else, and a reference that is not closed, stay as they are.
// A reference that is not known is for mapping to leave alone, see lookup.
func expand(s string, mapping func(name string) string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			out.WriteString(mapping(s[i+2 : i+2+end]))
			i += 2 + end
		default:
			out.WriteByte('$')
			out.WriteByte(s[i+1])
			i++
		}
	}
	return out.String()
}

// lookup maps names to values; an unknown name gives its own reference again.
func lookup(values map[string]string) func(string) string {
	return func(name string) string {
		if value, ok := values[name]; ok {
			return value
		}
		return "$(" + name + ")"
	}
}
