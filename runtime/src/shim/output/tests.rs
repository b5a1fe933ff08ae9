use super::*;

fn split(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
    let mut splitter = LineSplitter::default();
    let mut pieces = Vec::new();
    for chunk in chunks {
        splitter.push(chunk, |piece, ends| pieces.push((piece.to_vec(), ends)));
    }
    splitter.finish(|piece, ends| pieces.push((piece.to_vec(), ends)));
    pieces
}

fn lengths(pieces: &[(Vec<u8>, bool)]) -> Vec<(usize, bool)> {
    pieces.iter().map(|(piece, ends)| (piece.len(), *ends)).collect()
}

fn plan(path: &Path, max_bytes: u64, max_files: u32) -> LogPlan {
    LogPlan { path: path.to_owned(), max_bytes, max_files }
}

#[test]
fn lines_are_found_across_reads() {
    let pieces = split(&[b"one\ntw", b"o\n\nthree"]);
    let texts: Vec<_> = pieces.iter().map(|(p, e)| (String::from_utf8_lossy(p), *e)).collect();
    let expected = [("one", true), ("two", true), ("", true), ("three", true)];
    assert_eq!(texts, expected.map(|(text, ends)| (text.into(), ends)));
}

#[test]
fn long_lines_are_cut_at_16_kib() {
    let line = vec![b'x'; 2 * MAX_PIECE + 5];
    let expected = [(MAX_PIECE, false), (MAX_PIECE, false), (5, true)];
    assert_eq!(lengths(&split(&[&line, b"\n"])), expected);
    let (head, tail) = line.split_at(100);
    assert_eq!(lengths(&split(&[head, tail, b"\n"])), expected);
}

#[test]
fn a_line_of_exactly_16_kib_is_whole() {
    let mut line = vec![b'x'; MAX_PIECE];
    line.push(b'\n');
    assert_eq!(lengths(&split(&[&line])), [(MAX_PIECE, true)]);
    // The newline in a later read arrives in time as well.
    assert_eq!(lengths(&split(&[&line[..MAX_PIECE], b"\n"])), [(MAX_PIECE, true)]);
}

#[test]
fn lines_carry_time_stream_and_tag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/0.log");
    let mut log = Log::open(plan(&path, 1 << 20, 3)).unwrap();
    let mut splitter = LineSplitter::default();
    log.write(&mut splitter, StreamName::Stderr, b"oh\nno").unwrap();
    log.finish(&mut splitter, StreamName::Stderr).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    let (stamp, rest) = lines[0].split_once(' ').unwrap();
    assert_eq!(rest, "stderr F oh");
    assert_eq!(stamp.len(), "2026-01-02T03:04:05.678901234Z".len());
    assert!(stamp.parse::<Timestamp>().is_ok());
    assert!(lines[1].ends_with("stderr F no"));
}

#[test]
fn full_files_are_put_aside_and_the_oldest_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let mut log = Log::open(plan(&path, 1000, 3)).unwrap();
    let mut splitter = LineSplitter::default();
    for number in 0..200 {
        let line = format!("line {number}\n");
        log.write(&mut splitter, StreamName::Stdout, line.as_bytes()).unwrap();
    }
    let mut files = rotated_files(&path).unwrap();
    files.push(path);
    assert_eq!(files.len(), 3);
    let mut numbers = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.len() <= 1000, "{}", text.len());
        for line in text.lines() {
            numbers.push(line.rsplit(' ').next().unwrap().parse::<u32>().unwrap());
        }
    }
    // What is left is the end, in order and without a gap.
    let expected: Vec<u32> = (200 - numbers.len() as u32..200).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn an_existing_file_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    for word in ["one", "two"] {
        let mut log = Log::open(plan(&path, 1 << 20, 3)).unwrap();
        let line = format!("{word}\n");
        log.write(&mut LineSplitter::default(), StreamName::Stdout, line.as_bytes()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
}

#[test]
fn a_file_that_cannot_be_put_aside_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let mut log = Log::open(plan(&path, 100, 3)).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    let mut splitter = LineSplitter::default();
    let text = "a line of some length\n".repeat(50);
    assert!(log.write(&mut splitter, StreamName::Stdout, text.as_bytes()).is_err());
    assert_eq!(fs::read_to_string(elsewhere).unwrap().lines().count(), 50);
}
