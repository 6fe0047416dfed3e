//! The bars as a picture: how much of what its bar allows each row takes.

use crate::bars::Verdict;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const ROW: i32 = 18;
const TOP: i32 = 50;
const LEFT: i32 = 560;
const WIDTH: i32 = 1100;
/// Pixels of what a bar allows.
const UNIT: i32 = 300;

/// Draws it.
pub(crate) fn draw(verdicts: &[Verdict], file: &Path) -> Result<(), String> {
    let height = TOP + ROW * verdicts.len() as i32 + 20;
    let area = SVGBackend::new(file, (WIDTH as u32, height as u32)).into_drawing_area();
    paint(&area, verdicts, height)
        .and_then(|()| area.present())
        .map_err(|e| format!("{}: {e}", file.display()))
}

fn paint<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    verdicts: &[Verdict],
    height: i32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    area.fill(&WHITE)?;
    let plain = ("sans-serif", 12).into_text_style(area);
    let right = plain.pos(Pos::new(HPos::Right, VPos::Center));
    let left = plain.pos(Pos::new(HPos::Left, VPos::Center));
    let title = ("sans-serif", 15).into_text_style(area);
    area.draw_text(
        "What each row takes of what its bar allows: left of the line it holds",
        &title,
        (10, 10),
    )?;
    for (i, verdict) in verdicts.iter().enumerate() {
        let middle = TOP + ROW * i as i32 + ROW / 2;
        let share = verdict.reached / verdict.bar;
        let length = (share * f64::from(UNIT)).min(f64::from(WIDTH - LEFT - 90)) as i32;
        let colour = if verdict.holds() { RGBColor(70, 140, 90) } else { RGBColor(190, 80, 60) };
        let name = format!("{} ({})", verdict.what, verdict.ours);
        area.draw_text(&name, &right, (LEFT - 8, middle))?;
        let corners = [(LEFT, middle - 6), (LEFT + length, middle + 6)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        let figure = match (&verdict.ratio, verdict.is_absolute()) {
            (Some(ratio), false) => format!("{:.2}x", ratio.median),
            _ if verdict.unit == "ratio" => format!("{:.2}", verdict.value.median),
            _ => format!("{:.0}", verdict.value.median),
        };
        area.draw_text(&figure, &left, (LEFT + length + 6, middle))?;
    }
    let limit = vec![(LEFT + UNIT, TOP - 6), (LEFT + UNIT, height - 14)];
    area.draw(&PathElement::new(limit, BLACK))
}
