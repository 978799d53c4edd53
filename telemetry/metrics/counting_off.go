//go:build seine_nometrics

package metrics

const counting = false
