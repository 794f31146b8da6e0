//! The page itself, as HTML.

use std::fmt::Write;

use serde_json::Value;

use super::Unavailable;

pub(super) const STYLE: &str = "body{font-family:sans-serif;max-width:60rem;margin:auto}dt{font-weight:bold}.red{color:red}.error{color:darkred}\n";

pub(super) fn render(
    book: &Value,
    user: Option<&str>,
    details: &Result<Value, Unavailable>,
    reviews: &Result<Value, Unavailable>,
) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>Simple Bookstore App</title>\
         <link rel=\"stylesheet\" href=\"/static/style.css\"></head>\n<body>\n",
    );
    // Writing to a String cannot fail.
    let _ = match user {
        Some(user) => {
            writeln!(page, "<p id=\"user\">Signed in as {} <a href=\"/logout\">sign out</a></p>", escape(user))
        }
        None => writeln!(
            page,
            "<form action=\"/login\" method=\"post\"><input name=\"username\"><button>Sign in</button></form>"
        ),
    };
    let _ = writeln!(page, "<h1>{}</h1>\n<p>{}</p>", text(book, "title"), text(book, "descriptionHtml"));
    write_details(&mut page, details);
    write_reviews(&mut page, reviews);
    page.push_str("</body></html>\n");
    page
}

fn write_details(page: &mut String, details: &Result<Value, Unavailable>) {
    page.push_str("<section id=\"details\"><h2>Book Details</h2>\n");
    match details {
        Ok(details) => {
            page.push_str("<dl>\n");
            for key in ["author", "year", "type", "pages", "publisher", "language", "ISBN-10", "ISBN-13"] {
                let _ = writeln!(page, "<dt>{key}</dt><dd>{}</dd>", text(details, key));
            }
            page.push_str("</dl>\n");
        }
        Err(error) => write_error(page, "details", error),
    }
    page.push_str("</section>\n");
}

fn write_reviews(page: &mut String, reviews: &Result<Value, Unavailable>) {
    page.push_str("<section id=\"reviews\"><h2>Book Reviews</h2>\n");
    match reviews {
        Ok(reviews) => {
            for review in reviews.get("reviews").and_then(Value::as_array).into_iter().flatten() {
                let _ = writeln!(
                    page,
                    "<blockquote><p>{}</p><small>{}</small></blockquote>",
                    text(review, "text"),
                    text(review, "reviewer")
                );
                write_rating(page, review);
            }
            let _ = writeln!(page, "<p>Reviews served by: <u>{}</u></p>", text(reviews, "podname"));
        }
        Err(error) => write_error(page, "reviews", error),
    }
    page.push_str("</section>\n");
}

fn write_rating(page: &mut String, review: &Value) {
    let Some(rating) = review.get("rating") else { return };
    let _ = match rating.get("stars").and_then(Value::as_u64) {
        Some(stars) => {
            let shown: String = (1..=5).map(|star| if star <= stars { '★' } else { '☆' }).collect();
            writeln!(page, "<p class=\"stars {}\">{shown}</p>", text(rating, "color"))
        }
        None => writeln!(page, "<p class=\"error\">{}</p>", text(rating, "error")),
    };
}

fn write_error(page: &mut String, what: &str, error: &Unavailable) {
    let Unavailable { status, reason } = error;
    let _ = writeln!(
        page,
        "<p class=\"error\">Sorry, product {what} are currently unavailable for this book.</p>\n<!-- {} {} -->",
        status.as_u16(),
        escape(reason)
    );
}

fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => escape(text),
        Some(other) => escape(&other.to_string()),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace("--", "- -")
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_service_answers_cannot_break_the_page() {
        let reviews = json!({"podname": "<b>", "reviews": [{"reviewer": "a&b", "text": "<script>"}]});
        let page = render(&json!({}), Some("<i>"), &Ok(json!({})), &Ok(reviews));
        assert!(!page.contains("<script>") && !page.contains("<b>") && !page.contains("<i>"));
        let error = Unavailable { status: StatusCode::FORBIDDEN, reason: "--><script>".to_owned() };
        assert!(!render(&json!({}), None, &Err(error), &Ok(json!({}))).contains("--><script>"));
    }

    #[test]
    fn stars_keep_the_color_of_their_version() {
        let reviews = json!({"reviews": [{"reviewer": "r", "text": "t", "rating": {"stars": 4, "color": "red"}}]});
        let page = render(&json!({}), None, &Ok(json!({})), &Ok(reviews));
        assert!(page.contains("<p class=\"stars red\">★★★★☆</p>"));
    }
}
