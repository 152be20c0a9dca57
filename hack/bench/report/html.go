package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"strings"
)

//go:embed report.html.tmpl
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"number": number,
	"plots":  plots,
	"cells": func(f Figure) map[string]string {
		target, met, ceiling := f.cells()
		return map[string]string{"Target": target, "Met": met, "Ceiling": ceiling}
	},
}).Parse(pageText))

func (r *Report) html() ([]byte, error) {
	var b bytes.Buffer
	err := page.Execute(&b, r)
	return b.Bytes(), err
}

// Size of a plot in pixels; the margins hold the axes.
const (
	plotWidth, plotHeight    = 640, 240
	marginLeft, marginBottom = 64, 28
	marginTop, marginRight   = 8, 12
	ticks                    = 4
	colorCount               = 6
	innerWidth               = plotWidth - marginLeft - marginRight
	innerHeight              = plotHeight - marginTop - marginBottom
)

var colors = [colorCount]string{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"}

// plot is what the template draws: everything is in pixels already.
type plot struct {
	Title, Unit   string
	Width, Height int
	Lines         []line
	X, Y          []tick
	Left, Bottom  int
	Right, Top    int
}

type line struct{ Name, Color, Points string }

type tick struct {
	At    float64
	Label string
}

// plots groups series by plot and scales them.
func plots(series []Series) []plot {
	var order []string
	groups := map[string][]Series{}
	for _, s := range series {
		if len(s.Points) == 0 {
			continue
		}
		if groups[s.Plot] == nil {
			order = append(order, s.Plot)
		}
		groups[s.Plot] = append(groups[s.Plot], s)
	}
	list := make([]plot, 0, len(order))
	for _, title := range order {
		list = append(list, draw(title, groups[title]))
	}
	return list
}

func draw(title string, series []Series) plot {
	var maxX, maxY float64
	for _, s := range series {
		for _, p := range s.Points {
			maxX, maxY = max(maxX, p.Seconds), max(maxY, p.Value)
		}
	}
	maxX, maxY = nice(maxX), nice(maxY)
	p := plot{
		Title: title, Unit: series[0].Unit, Width: plotWidth, Height: plotHeight,
		Left: marginLeft, Bottom: marginTop + innerHeight, Right: marginLeft + innerWidth, Top: marginTop,
	}
	for i := range ticks + 1 {
		share := float64(i) / ticks
		p.X = append(p.X, tick{At: marginLeft + share*innerWidth, Label: number(share*maxX) + " s"})
		p.Y = append(p.Y, tick{At: marginTop + (1-share)*innerHeight, Label: number(share * maxY)})
	}
	for i, s := range series {
		var b strings.Builder
		for _, point := range s.Points {
			fmt.Fprintf(&b, "%.1f,%.1f ", marginLeft+point.Seconds/maxX*innerWidth, marginTop+(1-point.Value/maxY)*innerHeight)
		}
		p.Lines = append(p.Lines, line{Name: s.Name, Color: colors[i%colorCount], Points: b.String()})
	}
	return p
}

// nice rounds up to 1, 2, 4, 5 or 8 times a power of ten, so that the ticks get short labels.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 2, 4, 5, 8} {
		if v <= step*power {
			return step * power
		}
	}
	return 10 * power
}
