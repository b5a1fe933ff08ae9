use std::io::Write;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;

struct Log {
    folder: TempDir,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("0.log")
    }

    /// Appends one entry per line; `P` or `F` and the content.
    fn write(&self, second: u32, tag: &str, content: &str) {
        self.raw(&format!("2026-11-23T15:00:{second:02}.000000001Z stdout {tag} {content}\n"));
    }

    fn raw(&self, text: &str) {
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(self.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&self, stamp: &str) {
        fs::rename(self.path(), self.folder.path().join(format!("0.log.{stamp}"))).unwrap();
    }

    async fn read(&self, options: LogOptions) -> String {
        let stream = open(self.path(), options, Box::pin(std::future::pending())).await.unwrap();
        collect(stream).await
    }
}

async fn collect(stream: LogStream) -> String {
    let chunks: Vec<_> = stream.collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect();
    String::from_utf8(bytes).unwrap()
}

fn tail(lines: u64) -> LogOptions {
    LogOptions { tail_lines: Some(lines), ..LogOptions::default() }
}

#[tokio::test]
async fn lines_come_as_the_program_wrote_them() {
    let log = Log::new();
    log.write(1, "F", "one");
    log.write(2, "P", "tw");
    log.write(3, "F", "o");
    log.write(4, "F", "");
    log.raw("2026-11-23T15:00:05Z stderr F  spaces  kept \n");
    assert_eq!(log.read(LogOptions::default()).await, "one\ntwo\n\n spaces  kept \n");
}

#[tokio::test]
async fn a_log_that_is_not_there_is_empty() {
    assert_eq!(Log::new().read(LogOptions::default()).await, "");
    assert_eq!(Log::new().read(tail(3)).await, "");
}

#[tokio::test]
async fn timestamps_stand_before_lines() {
    let log = Log::new();
    log.write(1, "F", "one");
    log.write(2, "P", "tw");
    log.write(3, "F", "o");
    let options = LogOptions { timestamps: true, ..LogOptions::default() };
    assert_eq!(
        log.read(options).await,
        "2026-11-23T15:00:01.000000001Z one\n2026-11-23T15:00:02.000000001Z two\n"
    );
}

#[tokio::test]
async fn rotated_files_come_first() {
    let log = Log::new();
    log.write(1, "F", "one");
    log.rotate("20261123-150001");
    log.write(2, "F", "two");
    log.rotate("20261123-150002");
    log.write(3, "F", "three");
    assert_eq!(log.read(LogOptions::default()).await, "one\ntwo\nthree\n");
    assert_eq!(log.read(tail(2)).await, "two\nthree\n");
}

#[tokio::test]
async fn the_tail_has_as_many_lines_as_asked_for() {
    let log = Log::new();
    for second in 1..=5 {
        log.write(second, "P", "par");
        log.write(second, "F", &format!("t{second}"));
    }
    for (lines, expected) in [
        (0, ""),
        (1, "part5\n"),
        (3, "part3\npart4\npart5\n"),
        (5, "part1\npart2\npart3\npart4\npart5\n"),
        (99, "part1\npart2\npart3\npart4\npart5\n"),
    ] {
        assert_eq!(log.read(tail(lines)).await, expected, "{lines}");
    }
}

#[tokio::test]
async fn the_tail_of_a_large_log_crosses_blocks_and_files() {
    let log = Log::new();
    let mut all = Vec::new();
    for file in 0..3 {
        let mut text = String::new();
        for line in 0..3000 {
            let content = format!("{file}-{line}-{}", "x".repeat(line % 97));
            text.push_str(&format!("2026-11-23T15:00:00Z stdout F {content}\n"));
            all.push(format!("{content}\n"));
        }
        log.raw(&text);
        if file < 2 {
            log.rotate(&format!("2026112{file}"));
        }
    }
    for lines in [1, 2, 999, 2999, 3000, 3001, 6000, 8999, 9000] {
        let expected: String = all[all.len() - lines..].concat();
        assert!(log.read(tail(lines as u64)).await == expected, "{lines}");
    }
}

#[tokio::test]
async fn only_lines_since_a_time_are_given() {
    let log = Log::new();
    log.write(1, "F", "one");
    log.write(2, "F", "two");
    log.write(3, "F", "three");
    let since = Some("2026-11-23T15:00:02Z".parse().unwrap());
    let options = LogOptions { since, ..LogOptions::default() };
    assert_eq!(log.read(options).await, "two\nthree\n");
}

#[tokio::test]
async fn no_more_bytes_than_the_limit_are_given() {
    let log = Log::new();
    log.write(1, "F", "12345");
    log.write(2, "F", "67890");
    for (limit, expected) in
        [(0, ""), (3, "123"), (6, "12345\n"), (7, "12345\n6"), (99, "12345\n67890\n")]
    {
        let options = LogOptions { limit_bytes: Some(limit), ..LogOptions::default() };
        assert_eq!(log.read(options).await, expected, "{limit}");
    }
}

#[tokio::test]
async fn an_entry_that_is_not_complete_yet_is_not_given() {
    let log = Log::new();
    log.write(1, "F", "one");
    log.raw("2026-11-23T15:00:02Z stdout F tw");
    assert_eq!(log.read(LogOptions::default()).await, "one\n");
    assert_eq!(log.read(tail(1)).await, "one\n");
}

/// Reads until the text ends so.
async fn until(stream: &mut LogStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let chunk = tokio::time::timeout(Duration::from_secs(10), stream.next())
            .await
            .unwrap_or_else(|_| panic!("only {text:?} came, not {end:?}"));
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn following_gives_what_is_written_and_ends_with_the_container() {
    let log = Log::new();
    log.write(1, "F", "before");
    let (over, is_over) = oneshot::channel::<()>();
    let finished = Box::pin(async move {
        let _ = is_over.await;
    });
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut stream = open(log.path(), options, finished).await.unwrap();
    assert_eq!(until(&mut stream, "before\n").await, "before\n");
    log.write(2, "F", "now");
    assert_eq!(until(&mut stream, "now\n").await, "now\n");
    log.raw("2026-11-23T15:00:03Z stdout F to");
    log.raw("rn\n");
    assert_eq!(until(&mut stream, "torn\n").await, "torn\n");
    log.write(4, "F", "last");
    over.send(()).unwrap();
    assert_eq!(collect(stream).await, "last\n");
}

#[tokio::test]
async fn following_goes_on_over_rotation_and_loses_nothing() {
    let log = Log::new();
    let options = LogOptions { follow: true, tail_lines: Some(0), ..LogOptions::default() };
    let mut stream = open(log.path(), options, Box::pin(std::future::pending())).await.unwrap();
    let writer = async {
        for number in 0..500 {
            log.write(number % 60, "F", &number.to_string());
            if number % 100 == 99 {
                log.rotate(&format!("{number:04}"));
            }
            if number % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    let expected: String = (0..500).map(|number| format!("{number}\n")).collect();
    let (text, ()) = tokio::join!(until(&mut stream, "\n499\n"), writer);
    assert_eq!(text, expected);
}

#[tokio::test]
async fn following_a_container_that_has_not_logged_yet_waits() {
    let log = Log::new();
    let path = log.folder.path().join("made/later/0.log");
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut stream = open(path.clone(), options, Box::pin(std::future::pending())).await.unwrap();
    fs::write(&path, "2026-11-23T15:00:03Z stdout F first\n").unwrap();
    assert_eq!(until(&mut stream, "first\n").await, "first\n");
}

#[test]
fn last_words_are_the_end_of_the_log() {
    let log = Log::new();
    for second in 1..=9 {
        log.write(second, "F", &format!("line {second}"));
    }
    assert_eq!(last_lines(&log.path(), 2, 100).unwrap(), b"line 8\nline 9\n");
    assert_eq!(last_lines(&log.path(), 5, 3).unwrap(), b" 9\n");
}

#[test]
fn a_log_is_removed_with_all_its_files() {
    let log = Log::new();
    log.write(1, "F", "one");
    log.rotate("1");
    log.write(2, "F", "two");
    fs::write(log.folder.path().join("1.log"), "").unwrap();
    remove(&log.path()).unwrap();
    let left: Vec<_> = fs::read_dir(log.folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
}
