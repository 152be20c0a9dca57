// Package validation checks what users send: EdgeDevices, their status, enrolment tokens and the
// options of the subresources. Every error names the field and says what to do. It works on the
// internal types, after defaulting; nothing here looks anything up.
package validation
