//! A layer in front of another one, which gets every text with its control characters escaped.

use std::fmt;

use proto::text::escape;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber, Value};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Hands spans and events on to `L` with escaped texts: neither standard error nor the journal is shown a line break or a terminal's escape sequence
/// that came from somebody else.
pub(super) struct Escaping<L>(pub(super) L);

impl<S: Subscriber + for<'span> LookupSpan<'span>, L: Layer<S>> Layer<S> for Escaping<L> {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let texts = Texts::of(|texts| attributes.record(texts));
        let values = texts.values(metadata.fields());
        let values = metadata.fields().value_set_all(&values);
        let escaped = match attributes.parent() {
            Some(parent) => Attributes::child_of(parent.clone(), metadata, &values),
            None if attributes.is_root() => Attributes::new_root(metadata, &values),
            None => Attributes::new(metadata, &values),
        };
        self.0.on_new_span(&escaped, id, context);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(metadata) = context.metadata(id) else { return };
        let texts = Texts::of(|texts| record.record(texts));
        let values = texts.values(metadata.fields());
        self.0.on_record(id, &Record::new(&metadata.fields().value_set_all(&values)), context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let texts = Texts::of(|texts| event.record(texts));
        let values = texts.values(metadata.fields());
        let values = metadata.fields().value_set_all(&values);
        let escaped = if event.is_contextual() {
            Event::new(metadata, &values)
        } else {
            Event::new_child_of(event.parent().cloned(), metadata, &values)
        };
        self.0.on_event(&escaped, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.0.on_close(id, context);
    }

    fn on_id_change(&self, old: &Id, new: &Id, context: Context<'_, S>) {
        self.0.on_id_change(old, new, context);
    }
}

/// The values of one span or event.
#[derive(Default)]
struct Texts(Vec<(Field, Box<dyn Value>)>);

impl Texts {
    fn of(record: impl FnOnce(&mut Self)) -> Self {
        let mut texts = Self::default();
        record(&mut texts);
        texts
    }

    /// One for each field, in their order, as `FieldSet::value_set_all` wants them: what the macros of tracing call.
    fn values(&self, fields: &tracing::field::FieldSet) -> Vec<Option<&dyn Value>> {
        let value = |field: Field| self.0.iter().find(|(recorded, _)| *recorded == field).map(|(_, value)| &**value);
        fields.iter().map(value).collect()
    }

    fn put(&mut self, field: &Field, value: impl Value + 'static) {
        self.0.push((field.clone(), Box::new(value)));
    }
}

/// Numbers keep their type, for those who count with them.
impl Visit for Texts {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, escape(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, tracing::field::display(escape(&format!("{value:?}"))));
    }
}
