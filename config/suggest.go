package config

import (
	"slices"
	"strings"
)

// didYouMean is " (did you mean …?)" with the nearest of names, or "".
func didYouMean(word string, names []string) string {
	best, distance := "", 1+max(1, len(word)/3)
	names = slices.Clone(names)
	slices.Sort(names)
	for _, n := range names {
		if d := editDistance(strings.ToLower(word), strings.ToLower(n), distance); d < distance {
			best, distance = n, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours, up to limit.
func editDistance(a, b string, limit int) int {
	if len(a) > 64 || len(b) > 64 || max(len(a), len(b))-min(len(a), len(b)) >= limit {
		return limit
	}
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
