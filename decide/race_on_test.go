//go:build race

package decide

// raceEnabled: sync.Pool, from which regexp takes its machines, drops values at
// random under the race detector.
const raceEnabled = true
