//go:build !seine_nometrics

package metrics

// counting is false in the build that bench/feature-cost.sh compares with: what
// metrics cost a request is the difference, as they cannot be turned off.
const counting = true
