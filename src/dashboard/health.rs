//! How the endpoint fares: what waits, what failed, success and answer times over a day, as figures and charts.
//!
//! Never counts a history to its end: beyond a hundred it says "more than".

use std::fmt::Write as _;

use super::{Dashboard, HOME, words};
use crate::history::{HistoryQuery, Question, StoreError};
use crate::model::{EventId, MerchantId, Status, Timestamp};
use crate::pulse::{Day, HOURS, Hour};

/// Lines that are counted.
const COUNTED_MAX: usize = 100;

const DAY_MS: u64 = 86_400_000;

/// The size of a chart in its own units.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 96.0;

pub(super) struct Health {
    pub(super) pending: Count,
    pub(super) retrying: Count,
    pub(super) failed: Count,
    /// How long the oldest event has waited.
    pub(super) oldest: Option<String>,
    pub(super) oldest_is_late: bool,
    pub(super) rate: Option<String>,
    pub(super) rate_is_bad: bool,
    pub(super) succeeded: u32,
    pub(super) unsuccessful: u32,
    pub(super) usual: Option<String>,
    pub(super) slow: Option<String>,
    /// Where less than a day was counted.
    pub(super) since: Option<String>,
    pub(super) bars: Vec<Bar>,
    pub(super) lines: Option<Lines>,
    pub(super) table: Vec<TableRow>,
}

/// How many events, and where they are listed.
pub(super) struct Count {
    pub(super) text: String,
    pub(super) is_none: bool,
    pub(super) link: String,
}

/// One hour of the chart of attempts.
pub(super) struct Bar {
    pub(super) x: String,
    pub(super) width: String,
    pub(super) good_y: String,
    pub(super) good_height: String,
    pub(super) bad_y: String,
    pub(super) bad_height: String,
    pub(super) about: String,
}

/// The chart of answer times: paths of SVG.
pub(super) struct Lines {
    pub(super) usual: String,
    pub(super) slow: String,
    pub(super) top: String,
}

pub(super) struct TableRow {
    pub(super) hour: String,
    pub(super) succeeded: u32,
    pub(super) failed: u32,
    pub(super) usual: String,
    pub(super) slow: String,
}

impl Health {
    pub(super) async fn of(dashboard: &Dashboard, merchant: &MerchantId) -> Result<Health, StoreError> {
        let now = dashboard.clock.now();
        let day = dashboard.engine.pulse.day(merchant, now);
        let whole = &day.whole;
        let oldest = oldest(dashboard, merchant).await?;
        let rate = (whole.attempts() > 0).then(|| f64::from(whole.succeeded) / f64::from(whole.attempts()));
        let took = |part| whole.took_ms(part).map(|ms| words::duration(ms.into()));
        let yesterday = EventId::floor(Timestamp::from_ms(now.as_ms() - DAY_MS as i64));
        Ok(Health {
            pending: count(dashboard, merchant, Status::Pending, EventId::MIN).await?,
            retrying: count(dashboard, merchant, Status::Retrying, EventId::MIN).await?,
            failed: count(dashboard, merchant, Status::Failed, yesterday).await?,
            oldest_is_late: oldest.is_some_and(|at| now.since_ms(at) > 60_000),
            oldest: oldest.map(|at| words::duration(now.since_ms(at))),
            rate: rate.map(percent),
            rate_is_bad: rate.is_some_and(|rate| rate < 0.95),
            succeeded: whole.succeeded,
            unsuccessful: whole.failed,
            usual: took(0.5),
            slow: took(0.95),
            since: (now.since_ms(day.since) < DAY_MS).then(|| words::moment(day.since)),
            bars: bars(&day),
            lines: lines(&day),
            table: day
                .hours
                .iter()
                .filter(|(_, hour)| hour.attempts() > 0)
                .map(|(at, hour)| table_row(*at, hour))
                .collect(),
        })
    }
}

async fn oldest(dashboard: &Dashboard, merchant: &MerchantId) -> Result<Option<Timestamp>, StoreError> {
    let waiting =
        HistoryQuery { statuses: vec![Status::Pending, Status::Retrying], descending: false, ..all(merchant, 1) };
    let page = dashboard.engine.history.page(waiting).await?;
    Ok(page.items.first().map(|item| item.id.accepted_at()))
}

async fn count(
    dashboard: &Dashboard,
    merchant: &MerchantId,
    status: Status,
    first: EventId,
) -> Result<Count, StoreError> {
    let query = HistoryQuery { statuses: vec![status], first, ..all(merchant, COUNTED_MAX) };
    let page = dashboard.engine.history.page(query).await?;
    let more = if page.more { "+" } else { "" };
    Ok(Count {
        text: format!("{}{more}", page.items.len()),
        is_none: page.items.is_empty(),
        link: format!("{HOME}/events?status={status}"),
    })
}

fn all(merchant: &MerchantId, limit: usize) -> HistoryQuery {
    Question::new(merchant, limit).query()
}

/// Never rounds a failure away.
fn percent(rate: f64) -> String {
    let text = format!("{:.1}", (rate * 1000.0).floor() / 10.0);
    format!("{} %", text.trim_end_matches(".0"))
}

fn table_row(at: Timestamp, hour: &Hour) -> TableRow {
    let took = |part| hour.took_ms(part).map(|ms| words::duration(ms.into())).unwrap_or_default();
    TableRow {
        hour: words::moment(at)[..16].to_owned(),
        succeeded: hour.succeeded,
        failed: hour.failed,
        usual: took(0.5),
        slow: took(0.95),
    }
}

fn bars(day: &Day) -> Vec<Bar> {
    let most = day.hours.iter().map(|(_, hour)| hour.attempts()).max().unwrap_or(0).max(1);
    let step = WIDTH / HOURS as f64;
    let height = |count: u32| match count {
        0 => 0.0,
        // A single failure among thousands must still be seen.
        count => (f64::from(count) / f64::from(most) * HEIGHT).max(2.0),
    };
    let bar = |(i, (at, hour)): (usize, &(Timestamp, Hour))| {
        let (good, bad) = (height(hour.succeeded), height(hour.failed));
        let scale = if good + bad > HEIGHT { HEIGHT / (good + bad) } else { 1.0 };
        let (good, bad) = (good * scale, bad * scale);
        Bar {
            x: format!("{:.1}", i as f64 * step + 1.5),
            width: format!("{:.1}", step - 3.0),
            good_y: format!("{:.1}", HEIGHT - good),
            good_height: format!("{good:.1}"),
            bad_y: format!("{:.1}", HEIGHT - good - bad),
            bad_height: format!("{bad:.1}"),
            about: format!("{} UTC: {} succeeded, {} failed", &words::moment(*at)[11..16], hour.succeeded, hour.failed),
        }
    };
    day.hours.iter().enumerate().map(bar).collect()
}

/// On a scale of decades, because answer times span them.
fn lines(day: &Day) -> Option<Lines> {
    let most = day.hours.iter().filter_map(|(_, hour)| hour.took_ms(0.95)).max()?.max(10);
    let top = 10f64.powf(f64::from(most).log10().ceil());
    let y = |ms: u32| HEIGHT - (f64::from(ms).max(1.0).log10() / top.log10() * (HEIGHT - 4.0)) - 2.0;
    let path = |part: f64| {
        let (mut path, mut is_open) = (String::new(), false);
        for (i, (_, hour)) in day.hours.iter().enumerate() {
            let Some(ms) = hour.took_ms(part) else {
                is_open = false;
                continue;
            };
            let x = (i as f64 + 0.5) * WIDTH / HOURS as f64;
            // A lone hour is a short stroke: a point has no length to be seen by.
            let (from, to) = (x - 4.0, x + 4.0);
            let verb = if is_open { 'L' } else { 'M' };
            write!(path, "{verb}{from:.1} {y:.1}L{to:.1} {y:.1}", y = y(ms)).expect("writing to a string succeeds");
            is_open = true;
        }
        path
    };
    Some(Lines { usual: path(0.5), slow: path(0.95), top: words::duration(top as u64) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_rounded_away() {
        for (rate, text) in [(1.0, "100 %"), (0.9999, "99.9 %"), (0.5, "50 %"), (0.0, "0 %")] {
            assert_eq!(percent(rate), text);
        }
    }

    #[test]
    fn bars_stand_on_the_ground_and_fit_the_chart() {
        let mut hours = vec![(Timestamp::ZERO, Hour::default()); HOURS];
        hours[3].1.succeeded = 10_000;
        hours[3].1.failed = 1;
        let day = Day { hours, whole: Hour::default(), since: Timestamp::ZERO };
        let bars = bars(&day);
        assert_eq!(bars[0].good_height, "0.0");
        let number = |text: &str| text.parse::<f64>().unwrap();
        assert!(number(&bars[3].bad_height) > 1.0, "one failure is seen");
        assert!(number(&bars[3].bad_y) >= 0.0);
        assert!(lines(&day).is_none(), "no times were taken");
    }
}
